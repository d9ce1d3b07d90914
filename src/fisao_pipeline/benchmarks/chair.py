"""CHAIR: which of the objects that a caption names are in the image (Rohrbach et al., EMNLP 2018)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings, bootstrap_metrics
from fisao_pipeline.benchmarks.chair_words import WordChain, WordChainName, choose_word_chain
from fisao_pipeline.benchmarks.comparison_inputs import canonical_names
from fisao_pipeline.benchmarks.ratios import RatioMetrics, ratios_of_sums
from fisao_pipeline.benchmarks.scores import Scores
from fisao_pipeline.method.object_spans import ObjectVocabulary, mark_repeats

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
CATEGORY_COUNTS = ("mentions", "hallucinated", "images", "named")


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


def category_counts(items: Sequence[ChairItem]) -> pd.DataFrame:
    """What is said of each category, image by image; every figure of a category is made of these counts.

    Returns:
        One row per image and category that is in it or named of it: ``image_id``, ``category``, ``mentions``,
        ``hallucinated`` (mentions of what is not there), ``images`` (captions whose image shows it), ``named`` (of
        these, those that name it).
    """
    counts: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * len(CATEGORY_COUNTS))
    for item in items:
        for column, categories in enumerate((item.mentioned, item.hallucinated, item.true_objects, item.named)):
            for category in categories:
                counts[item.image_id, category][column] += 1
    table = pd.DataFrame(
        [(*key, *row) for key, row in counts.items()], columns=["image_id", "category", *CATEGORY_COUNTS]
    )
    return table.astype({"image_id": "str", "category": "str", **dict.fromkeys(CATEGORY_COUNTS, "int64")})


def category_rates(counts: pd.DataFrame) -> pd.DataFrame:
    """What is said of each category in all images, most mentioned first.

    Args:
        counts: From `category_counts`.

    Returns:
        One row per category: ``category``, ``mentions``, ``hallucinated``, ``chair_i`` (hallucinated / mentions),
        ``images``, ``named``, ``recall`` (named / images). A ratio without a denominator is NaN.
    """
    table = counts.groupby("category")[list(CATEGORY_COUNTS)].sum().reset_index()
    table = table.sort_values(["mentions", "category"], ascending=[False, True], ignore_index=True)
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


def score_chair(
    predictions: pd.DataFrame,
    objects: Mapping[str, Sequence[str]],
    references: Mapping[str, Sequence[str]],
    vocabulary: ObjectVocabulary,
    *,
    word_chain: WordChainName,
    annotated_categories: Collection[str] | None = None,
    settings: BootstrapSettings | None = None,
) -> Scores:
    """CHAIR of captions, with intervals, by category and by position.

    Args:
        predictions: ``line``, ``item_id`` (the image) and ``response``; an image may have several.
        objects: Annotated category names by image; read through the vocabulary, names that it does not hold are listed
            in the settings.
        references: Reference captions by image, may be empty; what they name is in the image too.
        vocabulary: The names; "coco" for figures that compare with published ones.
        word_chain: How words are found, in captions and references alike.
        annotated_categories: As in `fisao_pipeline.benchmarks.comparison.compare`; None is every category.
        settings: Resampling.
    """
    chain = choose_word_chain(word_chain, vocabulary)
    declared = vocabulary.categories if annotated_categories is None else annotated_categories
    known, unused = canonical_names(sorted(declared), vocabulary)
    strange = set(unused)
    truths: dict[str, frozenset[str]] = {}
    for image_id in predictions["item_id"].unique():
        names, unknown = canonical_names(objects.get(image_id, ()), vocabulary)
        strange.update(unknown)
        truths[image_id] = chair_truth(names, references.get(image_id, ()), chain).intersection(known)
    items = [
        chair_item(image_id, text, truths[image_id], word_chain=chain, annotated_categories=frozenset(known))
        for image_id, text in zip(predictions["item_id"], predictions["response"], strict=True)
    ]
    counts = chair_counts(items)
    details = {
        "mentioned_categories": [list(item.mentioned) for item in items],
        "hallucinated_categories": [list(item.hallucinated) for item in items],
        "true_categories": [list(item.true_objects) for item in items],
        "unscored_mentions": [item.unscored for item in items],
    }
    rows = predictions[["line", "item_id", "response"]].reset_index(drop=True)
    return Scores(
        metrics=bootstrap_metrics(counts, CHAIR_METRICS, settings),
        items=pd.concat([rows, counts, pd.DataFrame(details)], axis=1),
        basis={
            "word_chain": word_chain,
            "categories": len(set(known)),
            "objects_outside_vocabulary": sorted(strange),
            "captions": len(items),
            "captions_without_object": sum(not item.mentioned for item in items),
            "images_with_reference_captions": sum(bool(references.get(image_id)) for image_id in truths),
        },
        breakdowns={"by_category": category_rates(category_counts(items)), "by_position": chair_by_position(items)},
    )
