"""Means over seeds of several comparisons of base and aligned."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any


def seed_means(comparisons: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, standard deviation, lowest and highest over seeds of every metric that is defined for all of them.

    Returns:
        ``{"base" | "aligned" | "change": {decoding: {metric: {"mean", "std", "low", "high"}}}}``; ``std`` is that of a
        sample, null for one seed.

    Raises:
        ValueError: If there is no comparison.
    """
    comparisons = list(comparisons)
    if not comparisons:
        raise ValueError("seed_means: no comparison to average; give seed_study.seeds at least one seed")
    first = comparisons[0]
    means: dict[str, Any] = {}
    for part in ("base", "aligned", "change"):
        means[part] = {}
        for decoding, metrics in first[part].items():
            values = {name: [c[part][decoding][name]["value"] for c in comparisons] for name in metrics}
            means[part][decoding] = {name: _summary(v) for name, v in values.items() if None not in v}
    return means


def format_seed_table(result: Mapping[str, Any]) -> str:
    """Markdown table of base, aligned and change, as mean ± standard deviation over seeds."""
    means = result["means"]
    lines = ["| metric | base | aligned | change |", "|---|---|---|---|"]
    for decoding, metrics in means["base"].items():
        for name in metrics:
            cells = [_cell(means[part][decoding].get(name)) for part in ("base", "aligned", "change")]
            relative = means["change"][decoding].get(f"{name}_relative")
            if relative is not None and name.startswith("chair"):
                cells[2] += f" ({relative['mean']:+.0%})"
            lines.append(f"| {decoding} {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _summary(values: list[float]) -> dict[str, float | None]:
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "low": min(values),
        "high": max(values),
    }


def _cell(summary: Mapping[str, float | None] | None) -> str:
    if summary is None:
        return "–"
    spread = "" if summary["std"] is None else f" ± {summary['std']:.4f}"
    return f"{summary['mean']:.4f}{spread}"
