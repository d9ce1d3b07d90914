"""Nodes of `benchmark_evaluation`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from plotly.graph_objects import Figure

from fisao_pipeline.benchmarks.comparison import format_table
from fisao_pipeline.benchmarks.held_out import (
    chosen_prompts,
    compare_models,
    flat_metrics,
    held_out_prompts,
    pope_questions,
)
from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.datasets.keyed_folder import KeyedFolder
from fisao_pipeline.ingestion.rejections import collect_rejections
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params import BenchmarkEvaluationParams, ReportingParams
from fisao_pipeline.pipelines.images import image_opener, image_sizes
from fisao_pipeline.pipelines.metrics import metrics_to_active_run
from fisao_pipeline.pipelines.rejections import set_aside_long_prompts

logger = logging.getLogger(__name__)


def answer_held_out_prompts(
    prompts: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    policy_backbone: ModelSource,
    policy_adapter: Path | None,
    params: BenchmarkEvaluationParams,
    prediction_shards: KeyedFolder | None = None,
    models: Sequence[Literal["base", "aligned"]] = ("base", "aligned"),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Captions and yes/no answers of the base and of the aligned model, or of one of them, to held-out images.

    The second table lists the held-out prompts and questions that are too long for the policy. Parts of the answers
    are kept as they are made, so that a run that is killed goes on with the rest.
    """
    from fisao_pipeline.models.policy import Policy  # noqa: PLC0415 - slow to import
    from fisao_pipeline.training.evaluation import (  # noqa: PLC0415
        ANSWER_TOKENS,
        answer_prompts,
        caption_questions,
        yes_no_questions,
    )
    from fisao_pipeline.training.shards import Shards, shard_owners  # noqa: PLC0415

    held_out = held_out_prompts(prompts)
    policy = Policy.load(policy_backbone, adapter=policy_adapter)
    # By this stage's own longest answer, which may be another than response_sampling's.
    fitting, too_long = set_aside_long_prompts(
        policy, held_out, image_manifest, params.max_new_tokens, "benchmark_evaluation", ("held_out",)
    )
    chosen = chosen_prompts(fitting, params)
    asked = yes_no_questions(pope_questions(chosen, image_manifest, params))
    yes_no, too_long_to_ask = set_aside_long_prompts(
        policy, asked, image_manifest, ANSWER_TOKENS, "benchmark_evaluation"
    )
    rejected = collect_rejections(too_long, too_long_to_ask, listed_in="rejected_questions")
    questions = pd.concat([caption_questions(chosen), yes_no], ignore_index=True)
    shards = None
    if prediction_shards is not None:
        owners = shard_owners(policy_backbone, policy_adapter, image_manifest, params)
        shards = {
            model: Shards(prediction_shards, owner, params.responses_per_shard) for model, owner in owners.items()
        }
    answers = answer_prompts(
        policy,
        questions,
        image_opener(image_folder, image_manifest),
        params,
        models,
        image_sizes(image_manifest),
        shards,
    )
    return answers, rejected


def drop_prediction_shards(
    _saved: pd.DataFrame,
    image_manifest: pd.DataFrame,
    policy_backbone: ModelSource,
    policy_adapter: Path,
    prediction_shards: KeyedFolder,
    params: BenchmarkEvaluationParams,
) -> None:
    """Remove the parts of the answers that are now in `predictions`; those of runs that were not finished stay."""
    from fisao_pipeline.training.shards import drop, shard_owners  # noqa: PLC0415 - slow to import

    drop(prediction_shards, shard_owners(policy_backbone, policy_adapter, image_manifest, params).values())


def compare_base_and_aligned(
    predictions: pd.DataFrame,
    image_manifest: pd.DataFrame,
    annotated_categories: list[str],
    params: BenchmarkEvaluationParams,
) -> tuple[dict[str, Any], dict[str, float]]:
    """The comparison with confidence intervals, and the same numbers flat for MLflow."""
    comparison = compare_models(predictions, image_manifest, annotated_categories, params)
    logger.info("Base against aligned on held-out images:\n%s", format_table(comparison))
    metrics = flat_metrics(comparison)
    with metrics_to_active_run("benchmark.") as log_metrics:
        log_metrics(metrics, 0)
    return comparison, metrics


def score_predicted_mentions(
    predictions: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    annotated_categories: list[str],
    verifier: ModelSource,
    verifier_baseline: dict[str, Any],
) -> pd.DataFrame:
    """Every object that the two models name in their captions, with the verifier's score and what it would earn.

    By the settings that the rewards of the training were made with, which the baseline holds.
    """
    from fisao_pipeline.chosen_vocabulary import load_vocabulary  # noqa: PLC0415 - slow to import
    from fisao_pipeline.models.verifier import load_verifier  # noqa: PLC0415
    from fisao_pipeline.training import predicted_mentions  # noqa: PLC0415
    from fisao_pipeline.training.annotation import GroundTruth, VerifierBaseline  # noqa: PLC0415

    baseline = VerifierBaseline.from_dict(verifier_baseline)
    vocabulary = load_vocabulary(baseline.params.vocabulary, "reward_annotation.vocabulary")
    return predicted_mentions.mentions_of_predictions(
        predictions,
        load_verifier(verifier),
        vocabulary,
        GroundTruth.read(image_manifest, annotated_categories, vocabulary),
        baseline,
        image_opener(image_folder, image_manifest),
    )


def count_verifier_errors(prediction_mentions: pd.DataFrame) -> dict[str, Any]:
    """How much of what is still hallucinated the reward approves of: the verifier's part and the optimiser's."""
    from fisao_pipeline.benchmarks.verifier_errors import format_errors, verifier_errors  # noqa: PLC0415

    errors = verifier_errors(prediction_mentions)
    numbers = {
        f"{decoding}.{model}.{name}": float(value)
        for decoding, models in errors.items()
        for model, values in models.items()
        for name, value in values.items()
        if value is not None
    }
    with metrics_to_active_run("verifier_errors.") as log_metrics:
        log_metrics(numbers, 0)
    words = format_errors(errors)
    if words:
        logger.info("What the reward could teach, and what was learnt:\n%s", words)
    return errors


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
    verifier_baseline: dict[str, Any],
    reporting: ReportingParams,
) -> str:
    """The paper's Figure 5, as a page."""
    from fisao_pipeline.reporting.case_study import case_study_page, data_uri  # noqa: PLC0415 - slow to import
    from fisao_pipeline.reporting.cases import choose_cases  # noqa: PLC0415
    from fisao_pipeline.training.annotation import VerifierBaseline  # noqa: PLC0415

    cases = choose_cases(predictions, prediction_mentions, reporting.cases)
    open_image = image_opener(image_folder, image_manifest)
    pictures = {case.image_id: data_uri(open_image(case.image_id), reporting.picture_pixels) for case in cases}
    names = dict(zip(image_manifest["image_id"], image_manifest["file_name"], strict=True))
    rewarded_by = VerifierBaseline.from_dict(verifier_baseline).params
    shown = ("granularity", "rule", "margin", "false_mention_cost", "repeat_penalty", "template", "vocabulary")
    return case_study_page(cases, pictures, names, {name: str(getattr(rewarded_by, name)) for name in shown})


def write_figures_page(score_distributions: Figure, reward_quality: Figure, reward_shift: Figure) -> str:
    """Figures 1, 2 and 4 on one page that opens offline."""
    from fisao_pipeline.reporting.figures_page import figures_page  # noqa: PLC0415 - slow to import

    return figures_page([score_distributions, reward_quality, reward_shift])
