"""What alignment does to each category: how often it is named, how often wrongly, how often missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings, Interval, bootstrap_changes
from fisao_pipeline.benchmarks.chair import CATEGORY_COUNTS, ChairItem, category_counts, category_rates

MODELS = ("base", "aligned")
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
    counts = {model: category_counts(items[model]) for model in MODELS}
    names = category_rates(pd.concat(counts.values()))["category"].tolist()
    rates = {model: _by_name(counts[model], names) for model in MODELS}
    metrics = {
        f"{metric}/{name}": (f"{above}/{name}", f"{below}/{name}" if below else "captions")
        for name in names
        for metric, (above, below) in _METRICS.items()
    }
    tables = [_by_image(items[model], counts[model], names) for model in MODELS]
    changes = bootstrap_changes(*tables, metrics, settings) if names else {}
    rows = [
        {
            "category": name,
            **{model: rates[model][name] for model in MODELS},
            "change": {metric: changes[f"{metric}/{name}"][0].to_dict() for metric in _METRICS},
        }
        for name in names
    ]
    return {"categories": rows, **_multiplicity([change for change, _ in changes.values()], settings)}


def _by_name(counts: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Counts and rates of every category, also of one that only the other model names."""
    table = category_rates(counts).set_index("category").reindex(names)
    table = table.fillna(dict.fromkeys(CATEGORY_COUNTS, 0)).astype(dict.fromkeys(CATEGORY_COUNTS, "int64"))
    return table.astype(object).where(table.notna(), None).to_dict("index")


def _by_image(items: Sequence[ChairItem], counts: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """One row per image, those of which nothing is said included: `captions`, and every count as `count/category`."""
    captions = pd.Series(Counter(item.image_id for item in items))
    table = counts.pivot(index="image_id", columns="category", values=list(CATEGORY_COUNTS))
    table.columns = [f"{count}/{name}" for count, name in table.columns]
    wanted = [f"{count}/{name}" for count in CATEGORY_COUNTS for name in names]
    table = table.reindex(index=captions.index, columns=wanted).fillna(0).astype("int64")
    return table.assign(captions=captions).rename_axis("image_id").reset_index()


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
