"""What alignment does to each category: how often it is named, how often wrongly, how often missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings, Interval, bootstrap_changes
from fisao_pipeline.benchmarks.chair import ChairItem

MODELS = ("base", "aligned")
_COUNTS = ("mentions", "hallucinated", "images", "named")
_METRICS = {
    "mentions_per_caption": ("mentions", None),
    "hallucinated_per_caption": ("hallucinated", None),
    "chair_i": ("hallucinated", "mentions"),
    "recall": ("named", "images"),
}


def category_effects(
    items: Mapping[str, Sequence[ChairItem]], settings: BootstrapSettings | None = None
) -> dict[str, Any]:
    """Counts of both models for every category, and their paired change.

    Args:
        items: Of ``base`` and ``aligned``: their captions of the same images, as many of each.
        settings: Bootstrap settings; the defaults when None.

    Returns:
        ``categories``, those most often named first: each with its ``category``; for ``base`` and ``aligned``
        ``mentions``, ``hallucinated`` (mentions of what is not there), ``chair_i`` (hallucinated / mentions),
        ``images`` (captions of pictures that show it), ``named`` (of these, those that name it), ``recall``
        (named / images); and ``change``, aligned − base, of ``mentions_per_caption``, ``hallucinated_per_caption``,
        ``chair_i`` and ``recall`` as ``value``, ``low``, ``high``. ``intervals``, how many of these are defined;
        ``without_zero``, how many do not hold zero; ``by_chance``, how many would not if nothing had changed; and a
        ``note`` that says so. A ratio without a denominator is null.
    """
    settings = settings or BootstrapSettings()
    totals = {model: _totals(items[model]) for model in MODELS}
    names = sorted(
        {name for counts in totals.values() for count in counts.values() for name in count},
        key=lambda name: (-sum(totals[model]["mentions"][name] for model in MODELS), name),
    )
    metrics = {
        f"{metric}/{name}": (f"{above}/{name}", f"{below}/{name}" if below else "captions")
        for name in names
        for metric, (above, below) in _METRICS.items()
    }
    tables = [_by_image(items[model], names) for model in MODELS]
    changes = bootstrap_changes(*tables, metrics, settings) if names else {}
    rows = [
        {
            "category": name,
            **{model: _counted(totals[model], name) for model in MODELS},
            "change": {metric: changes[f"{metric}/{name}"][0].to_dict() for metric in _METRICS},
        }
        for name in names
    ]
    return {"categories": rows, **_multiplicity([change for change, _ in changes.values()], settings)}


def _totals(items: Sequence[ChairItem]) -> dict[str, Counter[str]]:
    return {
        "mentions": Counter(name for item in items for name in item.mentioned),
        "hallucinated": Counter(name for item in items for name in item.hallucinated),
        "images": Counter(name for item in items for name in item.true_objects),
        "named": Counter(name for item in items for name in item.named),
    }


def _counted(totals: Mapping[str, Counter[str]], name: str) -> dict[str, Any]:
    counts = {kind: totals[kind][name] for kind in _COUNTS}
    return {
        **counts,
        "chair_i": counts["hallucinated"] / counts["mentions"] if counts["mentions"] else None,
        "recall": counts["named"] / counts["images"] if counts["images"] else None,
    }


def _by_image(items: Sequence[ChairItem], names: Sequence[str]) -> pd.DataFrame:
    """One row of counts per image: `captions`, and every count of every category as `count/category`."""
    images = sorted({item.image_id for item in items})
    row_of = {image_id: row for row, image_id in enumerate(images)}
    columns = ["captions", *(f"{count}/{name}" for count in _COUNTS for name in names)]
    column_of = {column: number for number, column in enumerate(columns)}
    table = np.zeros((len(images), len(columns)), dtype=np.int32)
    for item in items:
        row = table[row_of[item.image_id]]
        row[0] += 1
        for count, named in zip(
            _COUNTS, (item.mentioned, item.hallucinated, item.true_objects, item.named), strict=True
        ):
            for name in named:
                row[column_of[f"{count}/{name}"]] += 1
    return pd.DataFrame(table, columns=columns).assign(image_id=images)


def _multiplicity(changes: Sequence[Interval], settings: BootstrapSettings) -> dict[str, Any]:
    bounded = [change for change in changes if change.low is not None and change.high is not None]
    without_zero = sum(not change.low <= 0 <= change.high for change in bounded)
    by_chance = round(len(bounded) * (1 - settings.confidence), 1)
    return {
        "intervals": len(bounded),
        "without_zero": without_zero,
        "by_chance": by_chance,
        "note": (
            f"{len(bounded)} intervals of {settings.confidence:.0%} each, none of them widened for their number: if "
            f"nothing had changed, about {by_chance:g} would not hold zero; {without_zero} do not. A single category "
            "that stands out is a question to ask of other data, not a finding."
        ),
    }
