"""Nodes of `reward_annotation`."""

from __future__ import annotations

from typing import Any

import pandas as pd
from plotly.graph_objects import Figure

from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.datasets.keyed_folder import KeyedFolder
from fisao_pipeline.models.source import ModelSource, identity
from fisao_pipeline.params.reporting import ReportingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.pipelines.images import image_opener
from fisao_pipeline.pipelines.metrics import metrics_to_active_run


def annotate_responses(
    responses: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    annotated_categories: list[str],
    policy_backbone: ModelSource,
    verifier: ModelSource,
    params: RewardAnnotationParams,
    verifier_texts: KeyedFolder | None = None,
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Scored and (where annotations can tell) labelled mentions, the baseline, token rewards, whole-response scores."""
    from fisao_pipeline.chosen_vocabulary import load_vocabulary  # noqa: PLC0415 - slow to import
    from fisao_pipeline.models.own_encoder import own_encoder  # noqa: PLC0415
    from fisao_pipeline.models.verifier import load_verifier  # noqa: PLC0415
    from fisao_pipeline.training.annotation import annotate  # noqa: PLC0415
    from fisao_pipeline.training.tables import GroundTruth  # noqa: PLC0415

    vocabulary = load_vocabulary(params.vocabulary, "reward_annotation.vocabulary")
    annotation = annotate(
        responses,
        load_verifier(verifier, verifier_texts),
        vocabulary,
        GroundTruth.read(image_manifest, annotated_categories, vocabulary),
        params,
        image_opener(image_folder, image_manifest),
        identity(verifier),
        own_encoder(policy_backbone, verifier),
    )
    return annotation.mentions, annotation.baseline.to_dict(), annotation.token_rewards, annotation.response_scores


def draw_score_distributions(
    object_mentions: pd.DataFrame,
    response_scores: pd.DataFrame,
    verifier_baseline: dict[str, Any],
    reporting: ReportingParams,
) -> Figure:
    """The paper's Figure 1; its overlap coefficients go to MLflow."""
    from fisao_pipeline.method.token_rewards import reward_thresholds  # noqa: PLC0415 - slow to import
    from fisao_pipeline.reporting import score_distributions as figure_1  # noqa: PLC0415
    from fisao_pipeline.training.baseline import VerifierBaseline  # noqa: PLC0415

    baseline = VerifierBaseline.from_dict(verifier_baseline)
    rewarded_by = baseline.params
    measured = figure_1.separations(object_mentions, response_scores, reporting.bins)
    if baseline.own_encoder is not None:
        measured = {**measured, "own_encoder": float(baseline.own_encoder)}
    with metrics_to_active_run("annotation.") as log_metrics:
        log_metrics(measured, 0)
    return figure_1.score_distributions_figure(
        object_mentions,
        response_scores,
        baseline.mentions,
        reward_thresholds(baseline.mentions, rewarded_by.rule, rewarded_by.margin, rewarded_by.false_mention_cost),
        baseline.sentence_mean,
        reporting.bins,
    )


def draw_reward_quality(
    responses: pd.DataFrame,
    response_scores: pd.DataFrame,
    token_rewards: pd.DataFrame,
    image_manifest: pd.DataFrame,
    verifier_baseline: dict[str, Any],
    reporting: ReportingParams,
) -> Figure:
    """The paper's Figure 2, where images have reference captions; its correlations go to MLflow."""
    from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings  # noqa: PLC0415 - slow to import
    from fisao_pipeline.benchmarks.reference_overlap import IMPLEMENTATION  # noqa: PLC0415
    from fisao_pipeline.benchmarks.reward_quality import reward_correlations, reward_points  # noqa: PLC0415
    from fisao_pipeline.reporting.reward_quality import reward_quality_figure  # noqa: PLC0415
    from fisao_pipeline.training.baseline import VerifierBaseline  # noqa: PLC0415

    granularity = VerifierBaseline.from_dict(verifier_baseline).params.granularity
    points = reward_points(responses, response_scores, token_rewards, image_manifest, granularity=granularity)
    settings = BootstrapSettings(reporting.bootstrap_resamples, reporting.confidence, reporting.seed)
    correlations = reward_correlations(points, settings)
    measured = {f"r.{row.reward}.{row.quality}": row.r for row in correlations.dropna(subset="r").itertuples()}
    with metrics_to_active_run("annotation.") as log_metrics:
        log_metrics(measured, 0)
    return reward_quality_figure(points, correlations, IMPLEMENTATION, reporting.confidence, reporting.max_points)
