"""Nodes of `benchmark_evaluation`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
from plotly.graph_objects import Figure

from fisao_pipeline.benchmarks.comparison import format_table
from fisao_pipeline.benchmarks.held_out import compare_models, flat_metrics, pope_questions
from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params import BenchmarkEvaluationParams, ReportingParams, RewardAnnotationParams
from fisao_pipeline.pipelines.images import image_opener
from fisao_pipeline.pipelines.metrics import log_to_active_run

logger = logging.getLogger(__name__)


def answer_held_out_prompts(
    prompts: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    policy_backbone: ModelSource,
    policy_adapter: Path,
    params: BenchmarkEvaluationParams,
) -> pd.DataFrame:
    """Captions and yes/no answers of the base and of the aligned model to held-out images."""
    from fisao_pipeline.models.policy import Policy  # noqa: PLC0415 - slow to import
    from fisao_pipeline.training.evaluation import answer_prompts, held_out_questions  # noqa: PLC0415

    questions = held_out_questions(prompts, pope_questions(prompts, image_manifest, params), params.held_out_images)
    policy = Policy.load(policy_backbone, adapter=policy_adapter)
    return answer_prompts(policy, questions, image_opener(image_folder, image_manifest), params)


def compare_base_and_aligned(
    predictions: pd.DataFrame, image_manifest: pd.DataFrame, params: BenchmarkEvaluationParams
) -> tuple[dict[str, Any], dict[str, float]]:
    """The comparison with confidence intervals, and the same numbers flat for MLflow."""
    comparison = compare_models(predictions, image_manifest, params)
    logger.info("Base against aligned on held-out images:\n%s", format_table(comparison))
    metrics = flat_metrics(comparison)
    log_to_active_run(metrics, step=params.seed, prefix="benchmark.")
    return comparison, metrics


def score_predictions(
    predictions: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    verifier: ModelSource,
    verifier_baseline: dict[str, Any],
    annotation: RewardAnnotationParams,
) -> pd.DataFrame:
    """Every object that the two models name in their captions, with the verifier's score and what it would earn."""
    from fisao_pipeline.method.object_spans import ObjectVocabulary  # noqa: PLC0415 - slow to import
    from fisao_pipeline.models.verifier import Verifier  # noqa: PLC0415
    from fisao_pipeline.training import prediction_scores  # noqa: PLC0415

    return prediction_scores.score_predictions(
        predictions,
        Verifier.load(verifier),
        ObjectVocabulary.load(annotation.vocabulary),
        image_manifest,
        verifier_baseline,
        annotation,
        image_opener(image_folder, image_manifest),
    )


def draw_reward_shift(
    predictions: pd.DataFrame, prediction_mentions: pd.DataFrame, reporting: ReportingParams
) -> Figure:
    """The paper's Figure 4."""
    from fisao_pipeline.reporting.reward_shift import reward_shift_figure  # noqa: PLC0415 - slow to import

    captions = predictions[predictions["task"] == "caption"].groupby(["model", "decoding"]).size().to_dict()
    return reward_shift_figure(prediction_mentions, captions, reporting.bins)


def write_case_study(
    predictions: pd.DataFrame,
    prediction_mentions: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    annotation: RewardAnnotationParams,
    reporting: ReportingParams,
) -> str:
    """The paper's Figure 5, as a page."""
    from fisao_pipeline.reporting.case_study import case_study_page, data_uri  # noqa: PLC0415 - slow to import
    from fisao_pipeline.reporting.cases import choose_cases  # noqa: PLC0415

    cases = choose_cases(predictions, prediction_mentions, reporting.cases)
    open_image = image_opener(image_folder, image_manifest)
    pictures = {case.image_id: data_uri(open_image(case.image_id), reporting.picture_pixels) for case in cases}
    names = dict(zip(image_manifest["image_id"], image_manifest["file_name"], strict=True))
    shown = ("granularity", "rule", "margin", "false_mention_cost", "repeat_penalty", "template", "vocabulary")
    return case_study_page(cases, pictures, names, {name: str(getattr(annotation, name)) for name in shown})


def write_figures_page(score_distributions: Figure, reward_quality: Figure, reward_shift: Figure) -> str:
    """Figures 1, 2 and 4 on one page that opens offline."""
    from fisao_pipeline.reporting.figures_page import figures_page  # noqa: PLC0415 - slow to import

    return figures_page([score_distributions, reward_quality, reward_shift])
