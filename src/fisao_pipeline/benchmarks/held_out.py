"""The held-out evaluation of a run: which questions are asked, and what the answers come to."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings
from fisao_pipeline.benchmarks.comparison import compare
from fisao_pipeline.benchmarks.pope import STRATEGIES, PopeQuestion, build_questions
from fisao_pipeline.chosen_vocabulary import load_vocabulary
from fisao_pipeline.libraries import library_versions
from fisao_pipeline.method.vocabulary import file_digest
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.seeded_choice import seeded_choice

logger = logging.getLogger(__name__)

POPE_OBJECTS = 3


def held_out_prompts(prompts: pd.DataFrame) -> pd.DataFrame:
    """The prompts of the held-out split.

    Raises:
        ValueError: No prompt belongs to it.
    """
    held_out = prompts[prompts["split"] == "held_out"]
    if held_out.empty:
        raise ValueError(
            "benchmark_evaluation: no held-out prompt to answer; raise image_ingestion.split_fractions.held_out, or "
            "give prompts of that split, and re-run image_ingestion"
        )
    return held_out


def chosen_prompts(prompts: pd.DataFrame, params: BenchmarkEvaluationParams) -> pd.DataFrame:
    """All prompts of the images that are asked about, chosen by the evaluation's own seed: the same for every run."""
    return seeded_choice(prompts, "image_id", params.held_out_images, params.seed)


def pope_questions(
    chosen: pd.DataFrame, manifest: pd.DataFrame, params: BenchmarkEvaluationParams
) -> dict[str, list[PopeQuestion]]:
    """POPE questions by strategy about the first images of the choice that show three annotated objects.

    A "no" is asked of an object that another of these images shows. Those for which there are fewer than three such
    objects are left out; a warning says how many.

    Args:
        chosen: What ``chosen_prompts`` gave; its order decides.
        manifest: The ``image_manifest`` table.
        params: Number of images and seed.

    Returns:
        Questions by strategy; none if no image can be asked about.
    """
    annotated = manifest.dropna(subset="objects")
    objects = dict(zip(annotated["image_id"], annotated["objects"], strict=True))
    shown = {i: list(objects[i]) for i in chosen["image_id"].drop_duplicates() if i in objects}
    eligible = [i for i, names in shown.items() if len(set(names)) >= POPE_OBJECTS]
    first = {i: shown[i] for i in eligible[: params.pope_images]}
    asked = _with_negatives(first)
    if len(asked) < len(first):
        logger.warning(
            "%d of %d images are not asked about: the others show fewer than %d objects that are absent from them, and "
            "as many yes/no questions need the answer no. %s",
            len(first) - len(asked),
            len(first),
            POPE_OBJECTS,
            f"{len(asked)} images are left." if asked else "No yes/no question is left, so POPE is not measured.",
        )
    if not asked:
        return {}
    return {
        strategy: build_questions(asked, strategy, n_images=len(asked), n_positives=POPE_OBJECTS, seed=params.seed)
        for strategy in STRATEGIES
    }


def _with_negatives(shown: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """The most images of which each lacks three objects that the others show; without one, others may lack theirs."""
    kept = dict(shown)
    while True:
        pool = {name for names in kept.values() for name in names}
        able = {i: names for i, names in kept.items() if len(pool.difference(names)) >= POPE_OBJECTS}
        if len(able) == len(kept):
            return kept
        kept = able


def compare_models(
    predictions: pd.DataFrame,
    manifest: pd.DataFrame,
    annotated_categories: Collection[str],
    params: BenchmarkEvaluationParams,
    same_questions: bool = True,
) -> dict[str, Any]:
    """The comparison of base and aligned, with the settings that its figures depend on.

    Args:
        predictions: The ``predictions`` table.
        manifest: The ``image_manifest`` table.
        annotated_categories: Names of the categories that the annotations declare: mentions of others are not scored.
        params: Vocabulary, word chain, bootstrap, truncation rule, examples.
        same_questions: Whether both must have been asked the same prompts as often.
    """
    vocabulary = load_vocabulary(params.vocabulary, "benchmark_evaluation.vocabulary")
    annotated = manifest.dropna(subset="objects")
    comparison = compare(
        predictions,
        annotated[["image_id", "objects"]],
        vocabulary,
        annotated_categories=annotated_categories,
        settings=BootstrapSettings(params.bootstrap_resamples, params.confidence, params.seed),
        word_chain=params.word_chain,
        drop_unfinished_sentence=params.drop_unfinished_sentence,
        examples=params.examples,
        same_questions=same_questions,
    )
    comparison["settings"] |= {
        "vocabulary": params.vocabulary,
        "vocabulary_digest": file_digest(params.vocabulary),
        "num_beams": params.num_beams,
        "versions": library_versions(),
        "max_new_tokens": params.max_new_tokens,
        "temperature": params.temperature,
        "samples_per_prompt": params.samples_per_prompt,
        "prompts": sorted(predictions.loc[predictions["task"] == "caption", "prompt"].unique())[:10],
        "images": int(predictions.loc[predictions["task"] == "caption", "image_id"].nunique()),
    }
    return comparison


def flat_metrics(comparison: Mapping[str, Any]) -> dict[str, float]:
    """``base.greedy.chair_i``-like names to values; undefined ones are left out."""
    return dict(_flat(comparison))


def _flat(comparison: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for part in ("base", "aligned", "change"):
        for decoding, metrics in comparison[part].items():
            for name, interval in metrics.items():
                if interval["value"] is not None:
                    yield f"{part}.{decoding}.{name}", interval["value"]
