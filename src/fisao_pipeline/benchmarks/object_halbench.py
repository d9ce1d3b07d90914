"""Object HalBench: CHAIR over objects that somebody has extracted from responses (Yu et al., RLHF-V, CVPR 2024).

Its reference asks a language model for the objects of each response. Here they are given, and only counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings, bootstrap_metrics
from fisao_pipeline.benchmarks.chair import chair_truth
from fisao_pipeline.benchmarks.chair_words import WordChainName, choose_word_chain
from fisao_pipeline.benchmarks.comparison_inputs import canonical_names
from fisao_pipeline.benchmarks.ratios import RatioMetrics
from fisao_pipeline.benchmarks.scores import Scores
from fisao_pipeline.method.object_spans import ObjectVocabulary

HALBENCH_METRICS: RatioMetrics = {
    "object_hallucination": ("hallucinated_words", "words"),
    "response_hallucination": ("hallucinated_responses", "responses_with_words"),
    "response_hallucination_of_all": ("hallucinated_responses", "responses"),
    "object_recall": ("named_objects", "true_objects"),
}
_COUNTS = (
    "words",
    "hallucinated_words",
    "responses",
    "responses_with_words",
    "hallucinated_responses",
    "named_objects",
    "true_objects",
)


@dataclass(frozen=True)
class HalBenchItem:
    """What is counted in one response.

    Attributes:
        words: Distinct extracted words of the vocabulary with their categories; two words of one category count twice.
        hallucinated: Those whose category is not in the image.
        named: Distinct categories that are.
        true_objects: All categories in the image.
    """

    words: tuple[tuple[str, str], ...]
    hallucinated: tuple[tuple[str, str], ...]
    named: frozenset[str]
    true_objects: frozenset[str]


def halbench_item(extracted: Sequence[str], true_objects: frozenset[str], vocabulary: ObjectVocabulary) -> HalBenchItem:
    """Count the objects of one response.

    A word counts once, however often it was extracted, in any case, singular or plural. "seat" is no chair beside a
    toilet. Words that the vocabulary does not hold are not counted.

    Source: RLHF-V/RLAIF-V, eval/eval_gpt_obj_halbench.py, from its list of objects on. It lemmatizes that list with
    spaCy and has a longer list of synonyms, of which the differences are not known here.
    """
    distinct = list(dict.fromkeys(" ".join(word.lower().split()) for word in extracted))
    if "toilet" in distinct:
        distinct = [word for word in distinct if word != "seat"]
    named = [(word, vocabulary.canonical(word)) for word in distinct]
    words = tuple((word, category) for word, category in named if category is not None)
    return HalBenchItem(
        words,
        tuple((word, category) for word, category in words if category not in true_objects),
        true_objects.intersection(category for _, category in words),
        true_objects,
    )


def halbench_counts(item_ids: Sequence[str], items: Sequence[HalBenchItem]) -> pd.DataFrame:
    """One row of counts per response; every metric of `HALBENCH_METRICS` is a ratio of two columns' sums."""
    rows = [
        (
            item_id,
            len(item.words),
            len(item.hallucinated),
            1,
            int(bool(item.words)),
            int(bool(item.hallucinated)),
            len(item.named),
            len(item.true_objects),
        )
        for item_id, item in zip(item_ids, items, strict=True)
    ]
    return pd.DataFrame(rows, columns=["image_id", *_COUNTS]).astype(dict.fromkeys(_COUNTS, "int64"))


def score_halbench(
    predictions: pd.DataFrame,
    objects: Mapping[str, Sequence[str]],
    references: Mapping[str, Sequence[str]],
    vocabulary: ObjectVocabulary,
    *,
    word_chain: WordChainName,
    settings: BootstrapSettings | None = None,
) -> Scores:
    """Object HalBench of extracted objects.

    Args:
        predictions: ``line``, ``item_id`` (the image) and ``response``, the list of extracted words.
        objects: Annotated category names by image.
        references: Reference captions by image; what they name is in the image too.
        vocabulary: The names.
        word_chain: How words are found in the reference captions.
        settings: Resampling of images.
    """
    chain = choose_word_chain(word_chain, vocabulary)
    truths = {
        image_id: chair_truth(
            canonical_names(objects.get(image_id, ()), vocabulary)[0], references.get(image_id, ()), chain
        )
        for image_id in predictions["item_id"].unique()
    }
    items = [
        halbench_item(words, truths[image_id], vocabulary)
        for image_id, words in zip(predictions["item_id"], predictions["response"], strict=True)
    ]
    counts = halbench_counts(list(predictions["item_id"]), items)
    rows = predictions[["line", "item_id"]].reset_index(drop=True)
    lists = {
        "extracted_words": list(predictions["response"]),
        "hallucinated_categories": [[category for _, category in item.hallucinated] for item in items],
    }
    return Scores(
        bootstrap_metrics(counts, HALBENCH_METRICS, settings),
        pd.concat([rows, counts, pd.DataFrame(lists)], axis=1),
        {"responses": len(items), "word_chain_of_references": word_chain},
    )
