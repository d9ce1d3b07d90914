"""The stages' own node functions, bound to what the catalog holds: the only place where a study calls them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fisao_pipeline.datasets.adapter_folder import AdapterArtifact, AdapterFolderDataset
from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.experiments.arms import StageSettings
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.pipelines.benchmark_evaluation.nodes import answer_held_out_prompts, compare_base_and_aligned
from fisao_pipeline.pipelines.policy_training.nodes import train_policy
from fisao_pipeline.pipelines.response_sampling.nodes import sample_policy_responses
from fisao_pipeline.pipelines.reward_annotation.nodes import annotate_responses


@dataclass(frozen=True)
class CatalogStages:
    """Implements `fisao_pipeline.experiments.study.Stages`."""

    prompts: pd.DataFrame
    image_manifest: pd.DataFrame
    image_folder: ImageFolder
    annotated_categories: list[str]
    policy_backbone: ModelSource
    verifier: ModelSource

    def sample(self, sampling: ResponseSamplingParams) -> tuple[pd.DataFrame, pd.DataFrame]:
        """As `response_sampling`."""
        return sample_policy_responses(
            self.prompts, self.image_manifest, self.image_folder, self.policy_backbone, sampling
        )

    def annotate(
        self, responses: pd.DataFrame, annotation: RewardAnnotationParams
    ) -> tuple[dict[str, Any], pd.DataFrame]:
        """As `reward_annotation`."""
        _, baseline, rewards, _ = annotate_responses(
            responses,
            self.image_manifest,
            self.image_folder,
            self.annotated_categories,
            self.policy_backbone,
            self.verifier,
            annotation,
        )
        return baseline, rewards

    def train(
        self,
        responses: pd.DataFrame,
        rejected_prompts: pd.DataFrame,
        baseline: dict[str, Any],
        token_rewards: pd.DataFrame,
        settings: StageSettings,
    ) -> tuple[AdapterArtifact, pd.DataFrame]:
        """As `policy_training`."""
        adapter, history, _ = train_policy(
            self.prompts,
            rejected_prompts,
            self.image_manifest,
            self.image_folder,
            self.annotated_categories,
            responses,
            token_rewards,
            baseline,
            self.policy_backbone,
            self.verifier,
            settings.response_sampling,
            settings.reward_annotation,
            settings.policy_training,
        )
        return adapter, history

    def answer_base(self, evaluation: BenchmarkEvaluationParams) -> pd.DataFrame:
        """As `benchmark_evaluation`, the base model alone."""
        return self._answers(None, evaluation, "base")

    def answer_aligned(self, adapter: AdapterArtifact, evaluation: BenchmarkEvaluationParams) -> pd.DataFrame:
        """As `benchmark_evaluation`, the aligned model alone."""
        # PEFT loads adapters from folders; this one is not kept, its settings and seed make it again.
        with tempfile.TemporaryDirectory() as folder:
            dataset = AdapterFolderDataset(filepath=str(Path(folder) / "adapter"))
            dataset.save(adapter)
            return self._answers(dataset.load(), evaluation, "aligned")

    def compare(self, predictions: pd.DataFrame, evaluation: BenchmarkEvaluationParams) -> dict[str, Any]:
        """As `benchmark_evaluation`, without its categories and examples: a row keeps figures."""
        comparison, _ = compare_base_and_aligned(
            predictions, self.image_manifest, self.annotated_categories, evaluation
        )
        return {name: part for name, part in comparison.items() if name not in ("categories", "examples")}

    def _answers(self, adapter: Path | None, evaluation: BenchmarkEvaluationParams, model: Any) -> pd.DataFrame:
        predictions, _ = answer_held_out_prompts(
            self.prompts,
            self.image_manifest,
            self.image_folder,
            self.policy_backbone,
            adapter,
            evaluation,
            models=(model,),
        )
        return predictions
