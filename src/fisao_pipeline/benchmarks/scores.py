"""What every benchmark gives: figures with intervals, breakdowns, and a row for each item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import Interval
from fisao_pipeline.benchmarks.ratios import finite_or_none


@dataclass(frozen=True)
class Scores:
    """The result of one benchmark.

    Attributes:
        metrics: Each figure; intervals where it is a ratio of sums, which can be resampled over images.
        items: One row per item: ``line``, ``item_id``, ``image_id``, ``response`` and what was counted.
        basis: What the figures rest on, beside predictions and parameters.
        breakdowns: Further tables by name.
    """

    metrics: Mapping[str, Interval]
    items: pd.DataFrame
    basis: Mapping[str, Any]
    breakdowns: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without the items."""
        return {
            "basis": dict(self.basis),
            "metrics": {name: interval.to_dict() for name, interval in self.metrics.items()},
            "breakdowns": {name: json_rows(table) for name, table in self.breakdowns.items()},
        }


def plain_scores(values: Mapping[str, float | None]) -> dict[str, Interval]:
    """Figures that are no ratio of sums, hence without an interval."""
    return {name: Interval(value, None, None) for name, value in values.items()}


def json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON can hold them: plain numbers, None for NaN."""
    return [{key: _plain(value) for key, value in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return finite_or_none(value) if isinstance(value, float) else value
