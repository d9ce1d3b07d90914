"""Paired percentile bootstrap over images for metrics that are ratios of sums.

A resample draws as many images as there are, with replacement; as numbers, a row of multinomial weights. Sums over the
resampled images are then one matrix product, weights @ counts. Base and aligned model share the weights, so what the
images have in common (easy ones, hard ones) cancels in their difference.

Of more than 5,000 images each weight is drawn from Poisson(1) on its own, many times as fast. The multinomial is the
same with a fixed sum, and no ratio depends on the sum (Chamandy et al., "Estimating uncertainty for massive data
streams", 2012).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from fisao_pipeline.benchmarks.ratios import RatioMetrics, finite_or_none, ratios_of_sums, sums_by_image

# Weights of one block: 32 MB as int64, whatever the number of images and resamples.
_BLOCK_WEIGHTS = 4_000_000
_MOST_MULTINOMIAL_IMAGES = 5000


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval.

    Attributes:
        value: Computed on all images; None when it is undefined (zero denominator).
        low: Lower percentile over the resamples; None when undefined or with fewer than two images.
        high: Upper percentile.
    """

    value: float | None
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True)
class BootstrapSettings:
    """How to resample.

    Attributes:
        n_resamples: Number of resamples, at least 1.
        confidence: Coverage of the interval, in (0, 1).
        seed: Seed of the weights.

    Raises:
        ValueError: A value out of range.
    """

    n_resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_resamples < 1:
            raise ValueError(f"n_resamples must be at least 1, not {self.n_resamples}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, not {self.confidence}")


def bootstrap_metrics(
    counts: pd.DataFrame, metrics: RatioMetrics, settings: BootstrapSettings | None = None
) -> dict[str, Interval]:
    """Value and interval of each metric of one model.

    Args:
        counts: One row per item with ``image_id`` and the count columns; items of one image move together.
        metrics: Metric name to (numerator column, denominator column).
        settings: Resampling; the defaults when None.
    """
    settings = settings or BootstrapSettings()
    images = sums_by_image(counts)
    (resampled,) = _resample([images], metrics, settings)
    values = ratios_of_sums(images, metrics)
    return {name: _interval(values[name], resampled[name], len(images), settings) for name in metrics}


def bootstrap_changes(
    base: pd.DataFrame, aligned: pd.DataFrame, metrics: RatioMetrics, settings: BootstrapSettings | None = None
) -> dict[str, tuple[Interval, Interval]]:
    """Difference ``aligned − base`` and relative change ``(aligned − base) / base`` of each metric, paired by image.

    Resamples in which either model's metric is undefined (or, for the relative change, the base's is zero) are left
    out of the percentiles.

    Args:
        base: Counts of the base model, one row per item.
        aligned: Counts of the aligned model on the same images.
        metrics: Metric name to (numerator column, denominator column).
        settings: Resampling; the defaults when None.

    Returns:
        Metric name to (difference, relative change).

    Raises:
        ValueError: The two tables cover different images.
    """
    settings = settings or BootstrapSettings()
    tables = [sums_by_image(base), sums_by_image(aligned)]
    if not tables[0].index.equals(tables[1].index):
        differing = tables[0].index.symmetric_difference(tables[1].index)
        raise ValueError(
            f"paired bootstrap needs the same images for both models; they differ in {list(differing[:5])}"
        )
    old_draws, new_draws = _resample(tables, metrics, settings)
    old_values, new_values = (ratios_of_sums(table, metrics) for table in tables)
    changes = {}
    for name in metrics:
        old, new = old_values[name], new_values[name]
        difference = None if old is None or new is None else new - old
        relative = None if difference is None or not old else difference / old
        drawn = new_draws[name] - old_draws[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn_relative = drawn / old_draws[name]
        changes[name] = (
            _interval(difference, drawn, len(tables[0]), settings),
            _interval(relative, drawn_relative, len(tables[0]), settings),
        )
    return changes


def bootstrap_pearson(pairs: pd.DataFrame, settings: BootstrapSettings | None = None) -> Interval:
    """Pearson's r of the columns ``x`` and ``y``; pairs of one image move together.

    r = Σ(x − x̄)(y − ȳ) / √(Σ(x − x̄)² Σ(y − ȳ)²), undefined (None) where a column has no spread.

    Args:
        pairs: One row per pair with ``image_id``, ``x`` and ``y``.
        settings: Resampling; the defaults when None.
    """
    settings = settings or BootstrapSettings()
    if len(pairs) < 2:
        return Interval(None, None, None)
    # Centred and scaled first, or the differences of large sums below lose their digits.
    x, y = (_standardised(pairs[name].to_numpy(dtype=np.float64)) for name in ("x", "y"))
    moments = pd.DataFrame({"n": 1.0, "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y})
    images = moments.groupby(pairs["image_id"].to_numpy()).sum().to_numpy()
    draws = [_pearson(weights @ images) for weights in _weight_blocks(len(images), settings)]
    value = finite_or_none(float(_pearson(images.sum(axis=0))))
    return _interval(value, np.concatenate(draws), len(images), settings)


def _standardised(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean()
    return centred / (np.abs(centred).max() or 1.0)


def _pearson(sums: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip((n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y)), -1.0, 1.0)


def _weight_blocks(n_images: int, settings: BootstrapSettings) -> Iterator[np.ndarray]:
    """Yield blocks of weights [resamples, images]; rows sum to the number of images, or do so on average."""
    rng = np.random.default_rng(settings.seed)
    rows = max(1, _BLOCK_WEIGHTS // n_images)
    poisson = _poisson_quantiles() if n_images > _MOST_MULTINOMIAL_IMAGES else None
    for first in range(0, settings.n_resamples, rows):
        size = min(rows, settings.n_resamples - first)
        if poisson is None:
            yield rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=size)
        else:
            yield poisson[rng.integers(0, len(poisson), size=(size, n_images), dtype=np.uint16)]


def _poisson_quantiles() -> np.ndarray:
    """Poisson(1) at 2^16 evenly spaced probabilities, so that a uniform 16-bit number picks a weight."""
    shares = np.cumsum([math.exp(-1) / math.factorial(count) for count in range(12)])
    return np.searchsorted(shares, (np.arange(2**16) + 0.5) / 2**16).astype(np.float32)


def _resample(
    tables: list[pd.DataFrame], metrics: RatioMetrics, settings: BootstrapSettings
) -> list[dict[str, np.ndarray]]:
    """Metric values of each table under the same resamples; NaN where a denominator is zero."""
    columns = list(dict.fromkeys(column for pair in metrics.values() for column in pair))
    n_images = len(tables[0])
    if n_images == 0:
        return [{name: np.empty(0) for name in metrics} for _ in tables]
    matrices = [table[columns].to_numpy(dtype=np.float64) for table in tables]
    blocks = [[weights @ matrix for matrix in matrices] for weights in _weight_blocks(n_images, settings)]
    results = []
    for index in range(len(tables)):
        sums = dict(zip(columns, np.concatenate([block[index] for block in blocks]).T, strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = {name: sums[above] / sums[below] for name, (above, below) in metrics.items()}
        results.append(ratios)
    return results


def _interval(value: float | None, draws: np.ndarray, n_images: int, settings: BootstrapSettings) -> Interval:
    draws = draws[np.isfinite(draws)]
    # One image resamples to itself: an interval of no width would claim certainty.
    if value is None or n_images < 2 or draws.size == 0:
        return Interval(value, None, None)
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, finite_or_none(low), finite_or_none(high))
