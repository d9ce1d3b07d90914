"""CHAIR: which of the objects that a caption names are in the image (Rohrbach et al., EMNLP 2018)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fisao_pipeline.benchmarks.ratios import RatioMetrics, ratios_of_sums
from fisao_pipeline.method.object_spans import ObjectVocabulary, find_mentions, mark_repeats

WordChain = Callable[[str], list[str]]
"""From a caption to the categories it names, in order, every mention counted."""

CHAIR_METRICS: RatioMetrics = {
    "chair_i": ("hallucinated_mentions", "mentions"),
    "chair_s": ("hallucinated_captions", "captions"),
    "recall": ("named_objects", "true_objects"),
    "objects_per_caption": ("mentions", "captions"),
    "repeated_mentions": ("repeated_mentions", "captions"),
}
_COUNTS = (
    "captions",
    "mentions",
    "hallucinated_mentions",
    "hallucinated_captions",
    "named_objects",
    "true_objects",
    "repeated_mentions",
)


@dataclass(frozen=True)
class ChairItem:
    """What CHAIR counts in one caption.

    Attributes:
        image_id: The image.
        mentioned: Categories named, in order, every mention counted; only those that the annotations can know.
        hallucinated: Those of ``mentioned`` that are not in the image, every mention counted.
        true_objects: Distinct annotated categories of the image, sorted.
        named: Those of ``true_objects`` that the caption names.
        repeated: Number of mentions beyond the first of their category.
        unscored: Number of mentions of categories that the annotations cannot know.
    """

    image_id: str
    mentioned: tuple[str, ...]
    hallucinated: tuple[str, ...]
    true_objects: tuple[str, ...]
    named: tuple[str, ...]
    repeated: int
    unscored: int


def spans_chain(vocabulary: ObjectVocabulary) -> WordChain:
    """Find categories with this project's span matcher, the one whose mentions are rewarded.

    It finds "bus" and "ties", which the reference's singularizer turns into words that its list does not hold, and
    counts "toilet seat" as one toilet. On 500 real captions of LLaVA-1.5-7B it gives the reference's categories for 477
    and CHAIR_i 0.1267 against 0.1278.
    """
    return lambda caption: [mention.category for mention in find_mentions(caption, vocabulary)]


def chair_item(
    image_id: str,
    caption: str,
    objects: Iterable[str],
    *,
    word_chain: WordChain,
    annotated_categories: Collection[str],
) -> ChairItem:
    """Score one caption.

    Args:
        image_id: The image.
        caption: The caption.
        objects: Ground truth: categories in the image, in the vocabulary's names.
        word_chain: From caption to categories, see `spans_chain`.
        annotated_categories: Categories that the annotations would hold wherever they are visible. A mention of any
            other is neither right nor wrong and is not scored.

    Raises:
        ValueError: An object is not among the annotated categories.
    """
    known = annotated_categories if isinstance(annotated_categories, set | frozenset) else set(annotated_categories)
    true_objects = set(objects)
    if not true_objects <= known:
        raise ValueError(
            f"image {image_id}: objects {sorted(true_objects - known)} are not among the annotated categories"
        )
    found = word_chain(caption)
    mentioned = tuple(category for category in found if category in known)
    return ChairItem(
        image_id=image_id,
        mentioned=mentioned,
        hallucinated=tuple(category for category in mentioned if category not in true_objects),
        true_objects=tuple(sorted(true_objects)),
        named=tuple(sorted(true_objects.intersection(mentioned))),
        repeated=sum(mark_repeats(mentioned)),
        unscored=len(found) - len(mentioned),
    )


def chair_truth(objects: Iterable[str], references: Iterable[str], word_chain: WordChain) -> frozenset[str]:
    """Ground truth of an image as the reference makes it: annotated objects, and what its reference captions name."""
    return frozenset(objects).union(*map(word_chain, references))


def chair_counts(items: Sequence[ChairItem]) -> pd.DataFrame:
    """One row of counts per caption; every metric of `CHAIR_METRICS` is a ratio of two columns' sums."""
    rows = [
        (
            item.image_id,
            1,
            len(item.mentioned),
            len(item.hallucinated),
            int(bool(item.hallucinated)),
            len(item.named),
            len(item.true_objects),
            item.repeated,
        )
        for item in items
    ]
    return pd.DataFrame(rows, columns=["image_id", *_COUNTS]).astype(dict.fromkeys(_COUNTS, "int64"))


def chair_metrics(items: Sequence[ChairItem]) -> dict[str, float | int | None]:
    """CHAIR of a set of captions.

    - ``chair_i`` = hallucinated mentions / mentions, every mention counted.
    - ``chair_s`` = captions with a hallucinated mention / captions, those that name nothing included.
    - ``recall`` = Σ distinct true objects named / Σ true objects.
    - ``objects_per_caption`` = mentions / captions.
    - ``repeated_mentions`` = mentions beyond the first of their category / captions. A model that learns to repeat what
      is right lowers ``chair_i`` without seeing better; this is where it shows.
    - ``n`` = captions.

    All but the last are None when their denominator is zero.

    Source: LisaAnne/Hallucination, utils/chair.py; recall as in Maxlinn/CHAIR-metric-standalone; the last two are ours.
    """
    return {**ratios_of_sums(chair_counts(items), CHAIR_METRICS), "n": len(items)}


def chair_by_category(items: Sequence[ChairItem]) -> pd.DataFrame:
    """What is said of each category, most mentioned first.

    Returns:
        One row per category that is in an image or named: ``category``, ``mentions``, ``hallucinated``, ``chair_i``
        (hallucinated / mentions), ``images`` (captions whose image shows it), ``named`` (of these, those that name
        it), ``recall`` (named / images). A ratio without a denominator is NaN.
    """
    columns = {
        "mentions": Counter(category for item in items for category in item.mentioned),
        "hallucinated": Counter(category for item in items for category in item.hallucinated),
        "images": Counter(category for item in items for category in item.true_objects),
        "named": Counter(category for item in items for category in item.named),
    }
    categories = sorted({*columns["mentions"], *columns["images"]}, key=lambda name: (-columns["mentions"][name], name))
    table = pd.DataFrame({name: [count[category] for category in categories] for name, count in columns.items()})
    table.insert(0, "category", pd.Series(categories, dtype="str"))
    table.insert(3, "chair_i", table["hallucinated"] / table["mentions"].replace(0, np.nan))
    return table.assign(recall=table["named"] / table["images"].replace(0, np.nan))


def chair_by_position(items: Sequence[ChairItem], last: int = 10) -> pd.DataFrame:
    """Whether the first object named in a caption is there, the second, …; later ones are more often made up.

    Args:
        items: The captions.
        last: Mentions from this one on share a row.

    Returns:
        ``position`` from 1 to at most ``last``, ``mentions``, ``hallucinated``, ``chair_i``; no row without mentions.
    """
    mentions: Counter[int] = Counter()
    wrong: Counter[int] = Counter()
    for item in items:
        true = set(item.true_objects)
        for place, category in enumerate(item.mentioned, start=1):
            mentions[min(place, last)] += 1
            wrong[min(place, last)] += category not in true
    places = sorted(mentions)
    table = pd.DataFrame(
        {
            "position": places,
            "mentions": [mentions[place] for place in places],
            "hallucinated": [wrong[place] for place in places],
        },
        dtype="int64",
    )
    return table.assign(chair_i=table["hallucinated"] / table["mentions"])
