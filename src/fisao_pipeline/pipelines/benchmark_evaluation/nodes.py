"""Nodes of `benchmark_evaluation`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from plotly.graph_objects import Figure

from fisao_pipeline.artifacts.node_code import code_digest
from fisao_pipeline.benchmarks.comparison import format_table
from fisao_pipeline.benchmarks.comparison_table import settings_line, title
from fisao_pipeline.benchmarks.held_out import (
    chosen_prompts,
    compare_models,
    flat_metrics,
    held_out_prompts,
    pope_questions,
)
from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.datasets.keyed_folder import KeyedFolder
from fisao_pipeline.datasets.lineage import GivenLineage
from fisao_pipeline.ingestion.rejections import collect_rejections
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.reporting import ReportingParams
from fisao_pipeline.pipelines.images import image_opener, image_sizes
from fisao_pipeline.pipelines.metrics import metrics_to_active_run
from fisao_pipeline.pipelines.rejections import set_aside_long_prompts

logger = logging.getLogger(__name__)

# Of the parameters of `reward_annotation`, those that change what a mention earns.
REWARD_SETTINGS = ("granularity", "rule", "margin", "false_mention_cost", "repeat_penalty", "template", "vocabulary")


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
        code = code_digest(answer_prompts)
        shards = {
            model: Shards(prediction_shards, owner, params.responses_per_shard, code) for model, owner in owners.items()
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

    drop(prediction_shards, lambda: shard_owners(policy_backbone, policy_adapter, image_manifest, params).values())


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
    verifier_texts: KeyedFolder | None = None,
) -> pd.DataFrame:
    """Every object that the two models name in their captions, with the verifier's score and what it would earn.

    By the settings that the rewards of the training were made with, which the baseline holds.
    """
    from fisao_pipeline.chosen_vocabulary import load_vocabulary  # noqa: PLC0415 - slow to import
    from fisao_pipeline.models.verifier import load_verifier  # noqa: PLC0415
    from fisao_pipeline.training import predicted_mentions  # noqa: PLC0415
    from fisao_pipeline.training.baseline import VerifierBaseline  # noqa: PLC0415
    from fisao_pipeline.training.tables import GroundTruth  # noqa: PLC0415

    baseline = VerifierBaseline.from_dict(verifier_baseline)
    vocabulary = load_vocabulary(baseline.params.vocabulary, "reward_annotation.vocabulary")
    return predicted_mentions.mentions_of_predictions(
        predictions,
        load_verifier(verifier, verifier_texts),
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


def write_comparison_table(comparison: dict[str, Any]) -> str:
    """The comparison as Markdown, its settings under every title."""
    return format_table(comparison) + "\n"


def write_report(
    comparison: dict[str, Any],
    predictions: pd.DataFrame,
    prediction_mentions: pd.DataFrame,
    verifier_errors: dict[str, Any],
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    verifier_baseline: dict[str, Any],
    training_history: pd.DataFrame,
    score_distributions: Figure,
    reward_quality: Figure,
    reward_shift: Figure,
    lineage: GivenLineage,
    reporting: ReportingParams,
) -> str:
    """Everything that is known of the run on one page."""
    from fisao_pipeline.benchmarks.verifier_errors import format_errors  # noqa: PLC0415 - slow to import
    from fisao_pipeline.reporting.cases import shown_cases  # noqa: PLC0415
    from fisao_pipeline.reporting.lineage import read_lineage  # noqa: PLC0415
    from fisao_pipeline.reporting.pictures import data_uris  # noqa: PLC0415
    from fisao_pipeline.reporting.report import Sources, report_page  # noqa: PLC0415
    from fisao_pipeline.training.baseline import VerifierBaseline  # noqa: PLC0415

    cases = shown_cases(comparison["examples"], predictions, prediction_mentions)
    open_image = image_opener(image_folder, image_manifest)
    rewarded_by = VerifierBaseline.from_dict(verifier_baseline).params
    settings = comparison["settings"]
    return report_page(
        Sources(
            comparison=comparison,
            titles={decoding: title(decoding, settings["samples"][decoding]) for decoding in comparison["change"]},
            settings={decoding: settings_line(settings, decoding) for decoding in comparison["change"]},
            cases=cases,
            pictures=data_uris(
                [case.image_id for case in cases], open_image, reporting.picture_pixels, reporting.pictures_bytes
            ),
            file_names=dict(zip(image_manifest["image_id"], image_manifest["file_name"], strict=True)),
            figures={"1": score_distributions, "2": reward_quality, "4": reward_shift},
            history=training_history,
            reward_settings={name: str(getattr(rewarded_by, name)) for name in REWARD_SETTINGS},
            verifier_errors=format_errors(verifier_errors),
            lineage=read_lineage(lineage["records"], lineage["tree"]),
        )
    )
