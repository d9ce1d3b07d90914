"""Means over seeds of several comparisons of base and aligned, and how far they can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

PARTS = ("aligned", "change")


def seed_means(comparisons: Iterable[Mapping[str, Any]], confidence: float = 0.95) -> dict[str, Any]:
    """Mean over seeds of every metric of the aligned model, and of its change, that is defined for all seeds.

    The interval is Student's: mean ± t · std / √n with n − 1 degrees of freedom. It holds the variation between
    training runs; that between images is in each comparison's bootstrap intervals. The base model has no spread: it is
    the same for all seeds.

    Args:
        comparisons: One per seed, as `fisao_pipeline.benchmarks.comparison.compare` returns them.
        confidence: Coverage of the intervals, in (0, 1).

    Returns:
        ``{"aligned" | "change": {decoding: {metric: {"mean", "std", "low", "high", "n"}}}}``; ``std`` is that of a
        sample. For one seed ``std``, ``low`` and ``high`` are null.

    Raises:
        ValueError: If there is no comparison, or the confidence is out of range.
    """
    comparisons = list(comparisons)
    if not comparisons:
        raise ValueError("seed_means: no comparison to average; give the study's `seeds` at least one seed")
    if not 0 < confidence < 1:
        raise ValueError(f"seed_means: confidence must lie between 0 and 1, not {confidence}")
    means: dict[str, Any] = {}
    for part in PARTS:
        means[part] = {}
        for decoding, metrics in comparisons[0][part].items():
            values = {name: [c[part][decoding][name]["value"] for c in comparisons] for name in metrics}
            means[part][decoding] = {
                name: summary_over_seeds(v, confidence) for name, v in values.items() if None not in v
            }
    return means


def summary_over_seeds(values: list[float], confidence: float) -> dict[str, float | int | None]:
    """``mean``, ``std`` of a sample, ``low`` and ``high`` of Student's interval, ``n``; one value has no spread."""
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return {"mean": mean, "std": None, "low": None, "high": None, "n": n}
    from scipy.stats import t  # noqa: PLC0415 - slow to import, and most runs average nothing

    std = statistics.stdev(values)
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n)
    return {"mean": mean, "std": std, "low": mean - half, "high": mean + half, "n": n}
