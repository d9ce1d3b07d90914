"""Node of `policy_training`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fisao_pipeline.artifacts.node_code import code_digest
from fisao_pipeline.datasets.adapter_folder import AdapterArtifact, training_run
from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.datasets.keyed_folder import KeyedFolder
from fisao_pipeline.models.source import ModelSource, identity, loaded_identity
from fisao_pipeline.params.flat import flatten_parameters
from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.pipelines.images import image_opener
from fisao_pipeline.pipelines.metrics import metrics_to_active_run
from fisao_pipeline.reporting.model_card import data_by_split, model_card, probe_changes


def train_policy(
    prompts: pd.DataFrame,
    rejected_prompts: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    annotated_categories: list[str],
    responses: pd.DataFrame,
    token_rewards: pd.DataFrame,
    verifier_baseline: dict[str, Any],
    policy_backbone: ModelSource,
    verifier: ModelSource,
    sampling: ResponseSamplingParams,
    annotation: RewardAnnotationParams,
    params: PolicyTrainingParams,
    training_checkpoints: KeyedFolder | None = None,
    response_shards: KeyedFolder | None = None,
    verifier_texts: KeyedFolder | None = None,
) -> tuple[AdapterArtifact, pd.DataFrame, pd.DataFrame]:
    """Train on prompts that fit, from the cached first round on, with the trainer of the parameters.

    A run that was killed goes on from its last checkpoint.
    """
    from fisao_pipeline.training.baseline import VerifierBaseline  # noqa: PLC0415 - slow to import
    from fisao_pipeline.training.checkpoints import Checkpoints  # noqa: PLC0415
    from fisao_pipeline.training.run import TrainingInputs, train_adapter  # noqa: PLC0415
    from fisao_pipeline.training.shards import Shards  # noqa: PLC0415

    prompts = prompts[~prompts["prompt_id"].isin(rejected_prompts["name"])]
    inputs = TrainingInputs(
        prompts=prompts,
        manifest=image_manifest,
        annotated_categories=annotated_categories,
        responses=responses,
        token_rewards=token_rewards,
        baseline=verifier_baseline,
        backbone=policy_backbone,
        verifier=verifier,
        sampling=sampling,
        annotation=annotation,
        params=params,
        code=code_digest(train_adapter),
    )
    checkpoints = None
    if training_checkpoints is not None and response_shards is not None:
        shards = Shards(response_shards, inputs.run(), sampling.responses_per_shard, inputs.code)
        checkpoints = Checkpoints(training_checkpoints, shards, params.checkpoint_every_steps)
    open_image = image_opener(image_folder, image_manifest)
    with metrics_to_active_run("training.") as log_metrics:
        result = train_adapter(inputs, open_image, log_metrics, checkpoints, verifier_texts)
    base = identity(policy_backbone)
    blocks = {"response_sampling": sampling, "reward_annotation": annotation, "policy_training": params}
    card = model_card(
        base_model=policy_backbone.path_or_id,
        revision=policy_backbone.revision,
        identity=loaded_identity(policy_backbone),
        data=data_by_split(prompts, image_manifest),
        settings=flatten_parameters({f"params:{name}": block for name, block in blocks.items()}),
        probe=probe_changes(result.history.to_dict("records")),
        own_encoder=VerifierBaseline.from_dict(verifier_baseline).own_encoder,
    )
    adapter = AdapterArtifact(
        config=result.adapter_config,
        state_dict=result.adapter_state,
        model_card=card,
        base_model=base,
        training_run=checkpoints.run if checkpoints is not None else None,
    )
    return adapter, result.history, result.rollouts


def drop_training_checkpoints(
    policy_adapter: Path,
    training_checkpoints: KeyedFolder,
    response_shards: KeyedFolder,
) -> None:
    """Remove checkpoints and rollouts of the run whose results are saved; those of runs that were not finished stay."""
    from fisao_pipeline.training.shards import drop  # noqa: PLC0415 - slow to import

    run = training_run(policy_adapter)
    if run is not None:
        for store in (training_checkpoints, response_shards):
            drop(store, lambda: [run])
