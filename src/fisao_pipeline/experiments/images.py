"""The figures of a study as still images for documents, drawn by matplotlib: plotly needs a browser to make any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fisao_pipeline.experiments.points import (
    METRIC_TITLES,
    RECALL_TITLE,
    budget_lines,
    budget_title,
    recall_points,
    recall_title,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DASHES = ("-", "--", ":", "-.")
_MARKERS = "osD^vPX<>*"


def draw_arms(result: Mapping[str, Any]) -> Figure:
    """As `fisao_pipeline.experiments.plot.plot_arms`."""
    points = recall_points(result)
    figure, axes = _panels(1, len(points))
    for axis, (decoding, of_decoding) in zip(axes[0], points.items(), strict=True):
        for point in of_decoding:
            base = point.number is None
            number = point.number or 0
            axis.errorbar(
                point.recall,
                point.chair,
                xerr=point.recall_half,
                yerr=point.chair_half,
                fmt="*" if base else _MARKERS[number // 10 % len(_MARKERS)],
                color="0.3" if base else f"C{number % 10}",
                markersize=13 if base else 7,
                elinewidth=1,
                label=point.name,
            )
        axis.set(title=f"{decoding} decoding", xlabel=RECALL_TITLE)
    axes[0][0].set_ylabel(METRIC_TITLES["chair_i"])
    return _finished(figure, axes, recall_title(result))


def draw_budget(result: Mapping[str, Any]) -> Figure:
    """As `fisao_pipeline.experiments.plot.plot_budget`, without the arms that are hidden there."""
    panels = budget_lines(result)
    figure, axes = _panels(len(panels), len(next(iter(panels.values()))))
    for axis, decoding in zip(axes[0], next(iter(panels.values())), strict=True):
        axis.set_title(f"{decoding} decoding")
    for axis in axes[-1]:
        axis.set_xlabel("sampled tokens")
        axis.xaxis.set_major_formatter(lambda tokens, _: f"{tokens:,.0f}")
    for row, (metric, of_metric) in zip(axes, panels.items(), strict=True):
        for axis, lines in zip(row, of_metric.values(), strict=True):
            for line in (line for line in lines if line.shown):
                colour, dash = f"C{line.number % 10}", _DASHES[line.number // 10 % len(_DASHES)]
                marker = _MARKERS[line.number % len(_MARKERS)]
                axis.plot(line.tokens, line.means, dash, color=colour, marker=marker, markersize=4, label=line.name)
                if line.lows and line.highs:
                    axis.fill_between(line.tokens, line.lows, line.highs, color=colour, alpha=0.12, linewidth=0)
        row[0].set_ylabel(METRIC_TITLES[metric])
    return _finished(figure, axes, budget_title(result))


def _panels(rows: int, columns: int) -> tuple[Figure, Any]:
    # Without pyplot: it would keep every figure alive and may look for a screen.
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    figure = Figure(figsize=(5.2 * columns, 0.9 + 3.6 * rows), layout="constrained", dpi=110)
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=rows > 1, sharey="row" if rows > 1 else False)


def _finished(figure: Figure, axes: Any, title: str) -> Figure:
    named: dict[str, Any] = {}
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    if named:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title)
    return figure
