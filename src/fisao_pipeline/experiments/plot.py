"""A study at a glance, as plotly figures: what each arm pays for hallucinating less, and how soon it gets there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fisao_pipeline.experiments.points import (
    METRIC_TITLES,
    RECALL_TITLE,
    Line,
    Point,
    budget_lines,
    budget_title,
    recall_points,
    recall_title,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

_COLOURS = 10  # of plotly's default order
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "cross")


def plot_arms(result: Mapping[str, Any]) -> Figure:
    """CHAIR_i over recall, one panel per decoding: base models as stars, arms with their intervals over seeds.

    An arm without objects to judge (undefined CHAIR_i) is left out.

    Args:
        result: What `fisao_pipeline.experiments.results.summarise` returns.
    """
    from plotly.subplots import make_subplots  # noqa: PLC0415 - slow to import

    points = recall_points(result)
    named: set[str] = set()
    figure = make_subplots(cols=len(points), subplot_titles=[f"{name} decoding" for name in points])
    for column, of_decoding in enumerate(points.values(), start=1):
        for point in of_decoding:
            figure.add_trace(_marker(point, legend=point.name not in named), row=1, col=column)
            named.add(point.name)
    figure.update_xaxes(title_text=RECALL_TITLE)
    figure.update_yaxes(title_text=METRIC_TITLES["chair_i"], col=1)
    figure.update_layout(title=recall_title(result), template="plotly_white", legend_title="arm")
    return figure


def plot_budget(result: Mapping[str, Any]) -> Figure:
    """CHAIR_i and recall of the probe over sampled tokens, one column per decoding, a line and a band per arm.

    Where there are many arms, those that differ in neither trainer nor granularity are hidden until their name in the
    legend is clicked.

    Args:
        result: What `fisao_pipeline.experiments.results.summarise` returns.
    """
    from plotly.subplots import make_subplots  # noqa: PLC0415 - slow to import

    panels = budget_lines(result)
    columns = list(next(iter(panels.values())))
    figure = make_subplots(
        rows=len(panels),
        cols=len(columns),
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=0.06,
        horizontal_spacing=0.04,
        column_titles=[f"{name} decoding" for name in columns],
    )
    named: set[str] = set()
    for row, (metric, of_metric) in enumerate(panels.items(), start=1):
        for column, lines in enumerate(of_metric.values(), start=1):
            for line in lines:
                for trace in _traces(line, legend=line.name not in named):
                    figure.add_trace(trace, row=row, col=column)
                named.add(line.name)
        figure.update_yaxes(title_text=METRIC_TITLES[metric], row=row, col=1)
    figure.update_xaxes(title_text="sampled tokens", row=len(panels))
    figure.update_layout(title=budget_title(result), template="plotly_white", legend_title="arm", height=700)
    return figure


def _colour(number: int | None) -> str:
    """Of an arm, the same in all figures; base models are grey."""
    from plotly.colors import qualitative  # noqa: PLC0415 - slow to import

    return "#555555" if number is None else qualitative.Plotly[number % _COLOURS]


def _symbol(number: int | None) -> str:
    return "star" if number is None else _SYMBOLS[number // _COLOURS % len(_SYMBOLS)]


def _marker(point: Point, legend: bool) -> Scatter:
    from plotly.graph_objects import Scatter  # noqa: PLC0415 - slow to import

    return Scatter(
        x=[point.recall],
        y=[point.chair],
        error_x=None if point.recall_half is None else {"array": [point.recall_half]},
        error_y=None if point.chair_half is None else {"array": [point.chair_half]},
        mode="markers",
        marker={"symbol": _symbol(point.number), "size": 12, "color": _colour(point.number)},
        name=point.name,
        legendgroup=point.name,
        showlegend=legend,
    )


def _traces(line: Line, legend: bool) -> list[Scatter]:
    """The mean, and the band around it where there is an interval."""
    from plotly.colors import hex_to_rgb  # noqa: PLC0415 - slow to import
    from plotly.graph_objects import Scatter  # noqa: PLC0415

    colour = _colour(line.number)
    shared = {"name": line.name, "legendgroup": line.name, "visible": True if line.shown else "legendonly"}
    dash = _DASHES[line.number // _COLOURS % len(_DASHES)]
    traces = [
        Scatter(
            x=line.tokens,
            y=line.means,
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            showlegend=legend,
            **shared,
        )
    ]
    if line.lows and line.highs:
        red, green, blue = hex_to_rgb(colour)
        traces.append(
            Scatter(
                x=[*line.tokens, *line.tokens[::-1]],
                y=[*line.highs, *line.lows[::-1]],
                mode="lines",
                line={"width": 0},
                fill="toself",
                fillcolor=f"rgba({red}, {green}, {blue}, 0.12)",
                hoverinfo="skip",
                showlegend=False,
                **shared,
            )
        )
    return traces
