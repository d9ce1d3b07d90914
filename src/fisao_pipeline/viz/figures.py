"""Plotly figures as Kedro-Viz draws them, with what they are of above them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fisao_pipeline.reporting.style import PAGE_COLOURS, empty_figure, laid_out
from fisao_pipeline.reporting.training_curves import training_panels

_PLOTLY_COLOURS = {name: colour for colour, name in PAGE_COLOURS.items()}
_COLUMNS, _ROW_HEIGHT, _LINE_HEIGHT = 2, 260, 18


def drawn(name: str, load: Callable[[], go.Figure], heading: Sequence[str]) -> dict[str, Any]:
    """A figure as plain data; one that says why where there is none.

    Args:
        name: Of the artifact.
        load: Reads or draws the figure.
        heading: Lines of text, put into its subtitle.
    """
    try:
        figure = load()
    except Exception:  # of whatever somebody's files hold; the heading says why
        figure = empty_figure(name, "There is nothing to draw.")
    note = figure.layout.title.subtitle.text or ""
    figure.update_layout(
        title={"subtitle": {"text": "<br>".join([*([note] if note else []), *map(escape, heading)])}},
        margin={"t": (figure.layout.margin.t or 100) + _LINE_HEIGHT * len(heading)},
        height=(figure.layout.height or 460) + _LINE_HEIGHT * len(heading),
    )
    return json.loads(figure.to_json())


def curves(history: pd.DataFrame) -> go.Figure:
    """What happened in training, round by round: the panels of the report."""
    panels = training_panels(history)
    rows = -(-len(panels) // _COLUMNS) or 1
    figure = make_subplots(rows=rows, cols=_COLUMNS, subplot_titles=[panel.title for panel in panels])
    for number, panel in enumerate(panels):
        place = {"row": number // _COLUMNS + 1, "col": number % _COLUMNS + 1}
        for line in panel.series:
            style = {"color": _PLOTLY_COLOURS[line.colour], "dash": "dash" if line.dashed else "solid"}
            name = line.label or panel.title
            figure.add_trace(
                go.Scatter(x=list(line.x), y=list(line.y), name=name, line=style, mode="lines+markers"), **place
            )
        for rule in panel.rules:
            figure.add_vline(x=rule.x, line={"dash": "dot"}, annotation_text=rule.label, **place)
        figure.update_yaxes(title_text=panel.y_title, **place)
        figure.update_xaxes(title_text=panel.x_title, **place)
    return laid_out(figure, "Training, round by round", height=_ROW_HEIGHT * rows).update_layout(showlegend=False)
