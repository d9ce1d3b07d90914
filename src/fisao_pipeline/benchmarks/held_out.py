"""The held-out evaluation of a run: which questions are asked, and what the answers come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings
from fisao_pipeline.benchmarks.comparison import compare
from fisao_pipeline.benchmarks.pope import STRATEGIES, PopeQuestion, build_questions
from fisao_pipeline.method.object_spans import ObjectVocabulary
from fisao_pipeline.params import BenchmarkEvaluationParams

POPE_OBJECTS = 3


def pope_questions(
    prompts: pd.DataFrame, manifest: pd.DataFrame, params: BenchmarkEvaluationParams
) -> dict[str, list[PopeQuestion]]:
    """POPE questions by strategy about held-out images; none if too few of them show three annotated objects."""
    held_out = prompts.loc[prompts["split"] == "held_out", "image_id"].drop_duplicates().head(params.held_out_images)
    shown = manifest[manifest["image_id"].isin(held_out)].dropna(subset="objects")
    objects = {i: list(names) for i, names in zip(shown["image_id"], shown["objects"], strict=True)}
    eligible = sum(len(set(names)) >= POPE_OBJECTS for names in objects.values())
    images = min(params.pope_images, eligible)
    if images == 0:
        return {}
    return {
        strategy: build_questions(objects, strategy, n_images=images, n_positives=POPE_OBJECTS, seed=params.seed)
        for strategy in STRATEGIES
    }


def compare_models(
    predictions: pd.DataFrame, manifest: pd.DataFrame, params: BenchmarkEvaluationParams
) -> dict[str, Any]:
    """The comparison of base and aligned, with the settings that its figures depend on."""
    vocabulary = ObjectVocabulary.load(params.vocabulary)
    annotated = manifest.dropna(subset="objects")
    comparison = compare(
        predictions,
        annotated[["image_id", "objects"]],
        vocabulary,
        annotated_categories=sorted({name for names in annotated["objects"] for name in names}),
        settings=BootstrapSettings(params.bootstrap_resamples, params.confidence, params.seed),
    )
    comparison["settings"] |= {
        "vocabulary": params.vocabulary,
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
