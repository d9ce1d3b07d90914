"""Nodes of `benchmark_evaluation`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from fisao_pipeline.benchmarks.comparison import format_table
from fisao_pipeline.benchmarks.held_out import compare_models, flat_metrics, pope_questions
from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params import BenchmarkEvaluationParams
from fisao_pipeline.pipelines.images import image_opener
from fisao_pipeline.pipelines.metrics import metrics_to_active_run

logger = logging.getLogger(__name__)


def answer_held_out_prompts(
    prompts: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    policy_backbone: ModelSource,
    policy_adapter: Path | None,
    params: BenchmarkEvaluationParams,
    models: Sequence[Literal["base", "aligned"]] = ("base", "aligned"),
) -> pd.DataFrame:
    """Captions and yes/no answers of the base and of the aligned model, or of one of them, to held-out images."""
    from fisao_pipeline.models.policy import Policy  # noqa: PLC0415 - slow to import
    from fisao_pipeline.training.evaluation import answer_prompts, held_out_questions  # noqa: PLC0415

    questions = held_out_questions(prompts, pope_questions(prompts, image_manifest, params), params.held_out_images)
    policy = Policy.load(policy_backbone, adapter=policy_adapter)
    return answer_prompts(policy, questions, image_opener(image_folder, image_manifest), params, models)


def compare_base_and_aligned(
    predictions: pd.DataFrame, image_manifest: pd.DataFrame, params: BenchmarkEvaluationParams
) -> tuple[dict[str, Any], dict[str, float]]:
    """The comparison with confidence intervals, and the same numbers flat for MLflow."""
    comparison = compare_models(predictions, image_manifest, params)
    logger.info("Base against aligned on held-out images:\n%s", format_table(comparison))
    metrics = flat_metrics(comparison)
    with metrics_to_active_run("benchmark.") as log_metrics:
        log_metrics(metrics, params.seed)
    return comparison, metrics
