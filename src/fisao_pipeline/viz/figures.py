"""Plotly figures as Kedro-Viz draws them, with what they are of above them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from fisao_pipeline.reporting.style import INK, PAGE_COLOURS, empty_figure, laid_out
from fisao_pipeline.reporting.training_curves import training_panels

_PLOTLY_COLOURS = {name: colour for colour, name in PAGE_COLOURS.items()}
# Kedro-Viz sets margins of its own, so there is no room above a plot but what the plot leaves of its own height.
_SHARE = 0.66


def drawn(name: str, load: Callable[[], go.Figure], heading: Sequence[str]) -> dict[str, Any]:
    """A figure as plain data; one that says why where there is none.

    Args:
        name: Of the artifact.
        load: Reads or draws the figure.
        heading: Lines of text, put into its subtitle.
    """
    try:
        figure = load()
    except Exception as error:  # of whatever somebody's files hold
        figure = empty_figure(name, f"There is nothing to draw ({type(error).__name__}).")
    note = figure.layout.title.subtitle.text
    lines = [*map(escape, heading), *([note] if note else [])]
    _lower(figure.update_layout(title={"subtitle": {"text": "<br>".join(lines)}, "y": 1.0}))
    return json.loads(figure.to_json())


def _lower(figure: go.Figure) -> None:
    """Move all that is drawn into the lower part of the plot."""
    for axis in figure.select_yaxes():
        axis.domain = [place * _SHARE for place in axis.domain or (0, 1)]
    for each in figure.layout.annotations:
        if each.yref in (None, "paper"):
            each.y *= _SHARE
    for each in figure.layout.shapes:
        if each.yref == "paper":
            each.y0, each.y1 = each.y0 * _SHARE, each.y1 * _SHARE


def curves(history: pd.DataFrame) -> go.Figure:
    """What happened in training, round by round: the panels of the report, one at a time, chosen from a list."""
    panels = training_panels(history)
    figure, owners = laid_out(go.Figure(), "Training, round by round"), []
    for panel in panels:
        for line in panel.series:
            style = {"color": _PLOTLY_COLOURS[line.colour], "dash": "dash" if line.dashed else "solid"}
            shown = {"name": line.label or panel.title, "visible": panel is panels[0]}
            figure.add_scatter(x=list(line.x), y=list(line.y), line=style, mode="lines+markers", **shown)
            owners.append(panel)
    for rule in panels[0].rules if panels else ():
        figure.add_vline(x=rule.x, line={"dash": "dot", "color": INK}, annotation_text=rule.label)
    choices = [
        {
            "label": panel.title,
            "method": "update",
            "args": [{"visible": [owner is panel for owner in owners]}, {"yaxis.title.text": panel.y_title}],
        }
        for panel in panels
    ]
    if choices:
        place = {"x": 1, "xanchor": "right", "y": _SHARE + 0.02, "yanchor": "bottom"}
        figure.update_layout(updatemenus=[{"buttons": choices, "font": {"size": 10}, **place}])
        figure.update_xaxes(title_text=panels[0].x_title).update_yaxes(title_text=panels[0].y_title)
    return figure
