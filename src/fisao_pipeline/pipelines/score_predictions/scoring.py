"""Which function computes which benchmark, and what all of them come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.amber import score_amber
from fisao_pipeline.benchmarks.amber_words import choose_nouns, choose_similarity
from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings
from fisao_pipeline.benchmarks.caption_metrics import score_captions
from fisao_pipeline.benchmarks.chair import score_chair
from fisao_pipeline.benchmarks.clip_score import score_clip
from fisao_pipeline.benchmarks.mme import score_mme
from fisao_pipeline.benchmarks.object_halbench import score_halbench
from fisao_pipeline.benchmarks.pope import score_pope
from fisao_pipeline.benchmarks.scores import Scores
from fisao_pipeline.chosen_vocabulary import load_vocabulary
from fisao_pipeline.ingestion.predictions import require_enough
from fisao_pipeline.params.base import StageParams
from fisao_pipeline.params.score_predictions import (
    AmberScoring,
    CaptionScoring,
    ChairScoring,
    ClipScoring,
    HalBenchScoring,
    MmeScoring,
    PopeScoring,
    ScorePredictionsParams,
)
from fisao_pipeline.pipelines.score_predictions.inputs import ScoringInput


def score_all(inputs: list[ScoringInput], params: ScorePredictionsParams) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score every benchmark.

    Returns:
        ``prediction_scores``: ``model``, ``settings`` and by benchmark ``settings``, ``files``, ``counts``, ``basis``,
        ``metrics``, ``breakdowns``; and ``scored_items``, one row per item with its ``benchmark``.

    Raises:
        ValueError: More of a file than ``max_faulty_share`` cannot be scored.
    """
    for one in inputs:
        for name, predictions in one.predictions.items():
            require_enough(predictions, f"{one.benchmark}.{name}".rstrip("."), params.max_faulty_share)
    settings = BootstrapSettings(params.bootstrap_resamples, params.confidence, params.seed)
    shared = params.model_dump(include={"max_faulty_share", "bootstrap_resamples", "confidence", "seed"})
    report: dict[str, Any] = {
        "model": params.model,
        "settings": shared | {"fisao_pipeline": version("fisao-pipeline")},
        "benchmarks": {},
    }
    tables = []
    for one in inputs:
        block: StageParams = getattr(params, one.benchmark)
        scores = _SCORERS[one.benchmark](one, block, settings)
        report["benchmarks"][one.benchmark] = {
            **scores.to_dict(),
            "settings": block.model_dump(mode="json"),
            "files": one.files,
            "counts": {name: predictions.counts() for name, predictions in one.predictions.items()},
        }
        tables.append(scores.items.assign(benchmark=one.benchmark))
    items = pd.concat(tables, ignore_index=True)
    return report, items[["benchmark", *(name for name in items if name != "benchmark")]]


def _score_chair(one: ScoringInput, block: ChairScoring, settings: BootstrapSettings) -> Scores:
    return score_chair(
        one.predictions[""].table,
        one.truth["objects"],
        one.truth["references"],
        load_vocabulary(block.vocabulary, "score_predictions.chair.vocabulary"),
        word_chain=block.word_chain,
        annotated_categories=one.truth["categories"],
        settings=settings,
    )


def _score_pope(one: ScoringInput, block: PopeScoring, settings: BootstrapSettings) -> Scores:
    tables = {name: predictions.table for name, predictions in one.predictions.items()}
    return score_pope(tables, one.truth, parsing=block.parsing, settings=settings)


def _score_amber(one: ScoringInput, block: AmberScoring, settings: BootstrapSettings) -> Scores:
    words = one.truth["words"]
    return score_amber(
        one.predictions[""].table,
        one.truth["annotations"],
        words,
        find_nouns=choose_nouns(block.nouns, words.known),
        similar=choose_similarity(block.similarity),
        settings=settings,
    )


def _score_mme(one: ScoringInput, block: MmeScoring, settings: BootstrapSettings) -> Scores:
    return score_mme(one.predictions[""].table, settings)


def _score_captions(one: ScoringInput, block: CaptionScoring, settings: BootstrapSettings) -> Scores:
    tokenize = block.tokens == "treebank"
    return score_captions(one.predictions[""].table, one.truth["references"], tokenize=tokenize, settings=settings)


def _score_halbench(one: ScoringInput, block: HalBenchScoring, settings: BootstrapSettings) -> Scores:
    return score_halbench(
        one.predictions[""].table,
        one.truth["objects"],
        one.truth["references"],
        load_vocabulary(block.vocabulary, "score_predictions.object_halbench.vocabulary"),
        word_chain=block.word_chain,
        settings=settings,
    )


def _score_clip(one: ScoringInput, block: ClipScoring, settings: BootstrapSettings) -> Scores:
    scores = score_clip(one.predictions[""].table, settings)
    return replace(scores, basis={**scores.basis, **one.truth})


_SCORERS: dict[str, Callable[[ScoringInput, Any, BootstrapSettings], Scores]] = {
    "chair": _score_chair,
    "pope": _score_pope,
    "amber": _score_amber,
    "mme": _score_mme,
    "captions": _score_captions,
    "object_halbench": _score_halbench,
    "clip_score": _score_clip,
}
