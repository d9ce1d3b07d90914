"""Node of `seed_study`."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.seed_means import format_seed_table, seed_means
from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params import (
    BenchmarkEvaluationParams,
    PolicyTrainingParams,
    ResponseSamplingParams,
    RewardAnnotationParams,
    SeedStudyParams,
)
from fisao_pipeline.pipelines.benchmark_evaluation.nodes import answer_held_out_prompts, compare_base_and_aligned
from fisao_pipeline.pipelines.policy_training.nodes import train_policy
from fisao_pipeline.pipelines.response_sampling.nodes import sample_policy_responses
from fisao_pipeline.pipelines.reward_annotation.nodes import annotate_responses

logger = logging.getLogger(__name__)


def run_seeds(
    prompts: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    policy_backbone: ModelSource,
    verifier: ModelSource,
    sampling: ResponseSamplingParams,
    annotation: RewardAnnotationParams,
    training: PolicyTrainingParams,
    evaluation: BenchmarkEvaluationParams,
    params: SeedStudyParams,
) -> dict[str, Any]:
    """Sampling, annotation, training and evaluation once per seed, by the stages' own functions; means over seeds."""
    import tempfile  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from fisao_pipeline.datasets.adapter_folder import AdapterFolderDataset  # noqa: PLC0415

    pictures = (image_manifest, image_folder)
    comparisons: dict[int, dict[str, Any]] = {}
    for seed in params.seeds:
        logger.info("Seed %d of %s", seed, list(params.seeds))
        seeded = {
            "sampling": sampling.model_copy(update={"seed": seed}),
            "training": training.model_copy(update={"seed": seed}),
        }
        responses = sample_policy_responses(prompts, *pictures, policy_backbone, seeded["sampling"])
        _, baseline, rewards, _ = annotate_responses(responses, *pictures, verifier, annotation)
        adapter, _, _ = train_policy(
            prompts,
            *pictures,
            responses,
            rewards,
            baseline,
            policy_backbone,
            verifier,
            seeded["sampling"],
            annotation,
            seeded["training"],
        )
        with tempfile.TemporaryDirectory() as folder:
            dataset = AdapterFolderDataset(filepath=str(Path(folder) / "adapter"))
            dataset.save(adapter)
            predictions = answer_held_out_prompts(prompts, *pictures, policy_backbone, dataset.load(), evaluation)
        comparisons[seed], _ = compare_base_and_aligned(predictions, image_manifest, evaluation)
    by_seed = {str(seed): comparison for seed, comparison in comparisons.items()}
    result = {"seeds": list(params.seeds), "means": seed_means(comparisons.values()), "by_seed": by_seed}
    logger.info("Means over %d seeds:\n%s", len(comparisons), format_seed_table(result))
    return result
