"""From artifacts to a trained adapter: load the models, run the loop."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from fisao_pipeline.chosen_vocabulary import load_vocabulary
from fisao_pipeline.method.vocabulary import file_digest
from fisao_pipeline.models.checkpointing import checkpoint_activations
from fisao_pipeline.models.embedded_texts import TensorStore
from fisao_pipeline.models.loading import resolve_device
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.models.source import ModelSource, identity, loaded_identity
from fisao_pipeline.models.verifier import load_verifier
from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.training.annotation import Annotator
from fisao_pipeline.training.baseline import VerifierBaseline
from fisao_pipeline.training.cached_round import check_cached_round
from fisao_pipeline.training.checkpoints import Checkpoints
from fisao_pipeline.training.loop import LogMetrics, PolicyTrainer, TrainingResult
from fisao_pipeline.training.sampling import sampling_engine
from fisao_pipeline.training.shards import SHARD_SIZE, digest, library_versions_of_results
from fisao_pipeline.training.tables import GroundTruth
from fisao_pipeline.training.trainers import check_trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingInputs:
    """All that decides what a training ends in, beside the pictures' bytes, of which the manifest has hashes.

    Attributes:
        prompts: The ``prompts`` table, without those that are too long for the backbone.
        manifest: The ``image_manifest`` table.
        annotated_categories: Names of the categories that the annotations declare.
        responses: The ``responses`` table, whose training rows are the first round's rollouts.
        token_rewards: Their rewards.
        baseline: The ``verifier_baseline`` as stored.
        backbone: The policy before training.
        verifier: The dual encoder that scores.
        sampling: How rounds sample.
        annotation: How mentions are paid.
        params: The loop's settings.
        code: Tells the code that trains from any other; empty where nothing is gone on with.
    """

    prompts: pd.DataFrame
    manifest: pd.DataFrame
    annotated_categories: Collection[str]
    responses: pd.DataFrame
    token_rewards: pd.DataFrame
    baseline: Mapping[str, Any]
    backbone: ModelSource
    verifier: ModelSource
    sampling: ResponseSamplingParams
    annotation: RewardAnnotationParams
    params: PolicyTrainingParams
    code: str = ""

    def run(self) -> str:
        """A name that a run shares with no other whose adapter may differ: what its checkpoints are known by.

        The number of threads is no part of it, though it changes rounding; nor is how often the run is kept.
        """
        tables = (self.prompts, self.manifest, self.responses, self.token_rewards)
        models = [
            (loaded_identity(source), source.dtype, source.options, resolve_device(source.device).type)
            for source in (self.backbone, self.verifier)
        ]
        settings = (
            self.sampling.model_dump(mode="json", exclude=SHARD_SIZE),
            self.annotation.model_dump(mode="json"),
            file_digest(self.annotation.vocabulary),
            self.params.model_dump(mode="json", exclude={"checkpoint_every_steps"}),
        )
        content = [table.to_json(orient="split", double_precision=15) for table in tables]
        rest = (
            sorted(self.annotated_categories),
            dict(self.baseline),
            library_versions_of_results(self.sampling.sampler),
            self.code,
        )
        return digest("training", content, models, settings, rest)


def train_adapter(
    inputs: TrainingInputs,
    open_image: ImageOpener,
    log_metrics: LogMetrics,
    checkpoints: Checkpoints | None = None,
    verifier_texts: TensorStore | None = None,
) -> TrainingResult:
    """Train a LoRA adapter on the backbone, by token-level PPO or a comparison's trainer; see ``training.loop``.

    Before a model is loaded it is checked that the first round was made with this run's settings and models, and fits
    the trainer.

    Args:
        inputs: What decides on the result.
        open_image: Gives the RGB picture of an id.
        log_metrics: Called after each optimiser step and each round; see ``training.loop.LogMetrics``.
        checkpoints: Where the run is kept while it is under way: one that was killed goes on from there, to the very
            same result if the policy samples itself. vLLM rounds by what it computes together, and need not repeat
            that. None keeps nothing.
        verifier_texts: Where the verifier's embeddings of texts are kept; None embeds them anew.

    Raises:
        ValueError: If the cached first round was made with other settings or models (see ``training.cached_round``), or
            the trainer could not learn from it (see ``training.trainers``).
    """
    sampling, annotation, params = inputs.sampling, inputs.annotation, inputs.params
    backbone, verifier, prompts, responses = inputs.backbone, inputs.verifier, inputs.prompts, inputs.responses
    stored = VerifierBaseline.from_dict(inputs.baseline)
    vocabulary = load_vocabulary(annotation.vocabulary, "reward_annotation.vocabulary")
    truth = GroundTruth.read(inputs.manifest, inputs.annotated_categories, vocabulary)
    check_trainer(params, sampling, truth, prompts.loc[prompts["split"] == "training", "image_id"])
    check_cached_round(responses, prompts, stored, sampling, annotation, loaded_identity(backbone), identity(verifier))
    # Before the policy is loaded: the seed decides on the fresh adapter's weights too.
    torch.manual_seed(params.seed)
    annotator = Annotator(load_verifier(verifier, verifier_texts), vocabulary, stored, annotation, open_image, truth)
    policy = Policy.load(backbone, lora=params.lora)
    if backbone.options.get("gradient_checkpointing"):
        layers = checkpoint_activations(policy.backbone)
        logger.info("Gradient checkpointing: %d layers keep their input only.", layers)
    # Those of all rounds and of the probe.
    asked = prompts[prompts["split"].isin(["training", "probe"])]
    with sampling_engine(policy, backbone, sampling, asked, inputs.manifest, params.lora.rank):
        trainer = PolicyTrainer(policy, annotator, prompts, sampling, params, truth, log_metrics, checkpoints)
        return trainer.train(responses, inputs.token_rewards)
