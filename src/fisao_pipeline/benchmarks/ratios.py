"""Metrics as ratios of sums: the form in which a metric can be resampled over images without recomputing anything.

A benchmark turns its items into a table of counts, one row per item, with an ``image_id`` column. Each metric names the
column that is summed above the line and the one below it. Micro-averaged metrics all have this form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

RatioMetrics = Mapping[str, tuple[str, str]]


def ratios_of_sums(counts: pd.DataFrame, metrics: RatioMetrics) -> dict[str, float | None]:
    """Σ numerator / Σ denominator of each metric over all rows.

    Args:
        counts: One row per item.
        metrics: Metric name to (numerator column, denominator column).

    Returns:
        Metric name to value; None where the denominator is zero, which is "undefined" and not "zero".
    """
    values = {}
    for name, (numerator, denominator) in metrics.items():
        below = float(counts[denominator].sum())
        values[name] = float(counts[numerator].sum()) / below if below else None
    return values


def sums_by_image(counts: pd.DataFrame) -> pd.DataFrame:
    """Sum the count columns over the items of each image, ordered by image id.

    Items of one image (several samples, six questions) are not independent, so images are what is resampled.
    """
    return counts.groupby("image_id", sort=True).sum(numeric_only=True)


def finite_or_none(value: float | np.floating) -> float | None:
    """Plain float for JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None
