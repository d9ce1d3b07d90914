"""A study at a glance: how much each arm hallucinates, and what it pays for that in objects it no longer names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

_COLOURS = 10  # of plotly's default order
Point = tuple[float, float | None, float, float | None]
"""Recall and CHAIR_i in percent, each with half the width of its interval."""


def plot_arms(result: Mapping[str, Any]) -> Figure:
    """CHAIR_i over recall, one panel per decoding: base models as stars, arms with their intervals over seeds.

    An arm without objects to judge (undefined CHAIR_i) is left out.

    Args:
        result: What `fisao_pipeline.experiments.results.summarise` returns.
    """
    from plotly.subplots import make_subplots  # noqa: PLC0415 - slow to import

    decodings = list(result["base"][0]["metrics"])
    colours: dict[str, int] = {}  # a name has one colour in all panels
    figure = make_subplots(cols=len(decodings), subplot_titles=[f"{name} decoding" for name in decodings])
    for column, decoding in enumerate(decodings, start=1):
        for name, symbol, point in _points(result, decoding):
            first = name not in colours
            number = colours.setdefault(name, len(colours))
            figure.add_trace(_marker(name, symbol, point, number, legend=first), row=1, col=column)
    figure.update_xaxes(title_text="object recall, % (more is better)")
    figure.update_yaxes(title_text="CHAIR_i, % (less is better)", col=1)
    seeds, confidence = result["settings"]["seeds"], result["settings"]["confidence"]
    title = f"Hallucination against recall: means over {len(seeds)} seeds, bars {confidence:.0%} intervals"
    figure.update_layout(title=title, template="plotly_white", legend_title="arm")
    return figure


def _points(result: Mapping[str, Any], decoding: str) -> Iterator[tuple[str, str, Point]]:
    for base in result["base"]:
        name = "base" if len(result["base"]) == 1 else f"base of {', '.join(base['arms'])}"
        metrics = base["metrics"][decoding]
        recall, chair = (metrics.get(metric, {}).get("value") for metric in ("recall", "chair_i"))
        if recall is not None and chair is not None:
            yield name, "star", (100 * recall, None, 100 * chair, None)
    for name, means in result["arms"].items():
        metrics = means["aligned"].get(decoding, {})
        if {"recall", "chair_i"} <= metrics.keys():
            recall, chair = metrics["recall"], metrics["chair_i"]
            yield name, "circle", (100 * recall["mean"], _half(recall), 100 * chair["mean"], _half(chair))


def _half(summary: Mapping[str, float | None]) -> float | None:
    return None if summary["high"] is None else 100 * (summary["high"] - summary["mean"])


def _marker(name: str, symbol: str, point: Point, number: int, legend: bool) -> Scatter:
    from plotly.colors import qualitative  # noqa: PLC0415 - slow to import
    from plotly.graph_objects import Scatter  # noqa: PLC0415

    recall, recall_half, chair, chair_half = point
    return Scatter(
        x=[recall],
        y=[chair],
        error_x=None if recall_half is None else {"array": [recall_half]},
        error_y=None if chair_half is None else {"array": [chair_half]},
        mode="markers",
        marker={"symbol": symbol, "size": 12, "color": qualitative.Plotly[number % _COLOURS]},
        name=name,
        legendgroup=name,
        showlegend=legend,
    )
