"""Node of `policy_training`."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fisao_pipeline.datasets.adapter_folder import AdapterArtifact
from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.flat_parameters import flatten_parameters
from fisao_pipeline.models.source import ModelSource, identity, loaded_identity
from fisao_pipeline.params import PolicyTrainingParams, ResponseSamplingParams, RewardAnnotationParams
from fisao_pipeline.pipelines.images import image_opener
from fisao_pipeline.pipelines.metrics import metrics_to_active_run
from fisao_pipeline.reporting.model_card import model_card, probe_changes


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
) -> tuple[AdapterArtifact, pd.DataFrame, pd.DataFrame]:
    """Train on prompts that fit, from the cached first round on, with the trainer of the parameters."""
    from fisao_pipeline.training.run import train_adapter  # noqa: PLC0415 - slow to import

    with metrics_to_active_run("training.") as log_metrics:
        result = train_adapter(
            prompts=prompts[~prompts["prompt_id"].isin(rejected_prompts["name"])],
            manifest=image_manifest,
            annotated_categories=annotated_categories,
            open_image=image_opener(image_folder, image_manifest),
            responses=responses,
            token_rewards=token_rewards,
            baseline=verifier_baseline,
            backbone=policy_backbone,
            verifier=verifier,
            sampling=sampling,
            annotation=annotation,
            params=params,
            log_metrics=log_metrics,
        )
    base = identity(policy_backbone)
    blocks = {"response_sampling": sampling, "reward_annotation": annotation, "policy_training": params}
    card = model_card(
        base_model=policy_backbone.path_or_id,
        revision=policy_backbone.revision,
        identity=loaded_identity(policy_backbone),
        settings=flatten_parameters({f"params:{name}": block for name, block in blocks.items()}),
        probe=probe_changes(result.history.to_dict("records")),
        own_encoder=verifier_baseline["own_encoder"],
    )
    adapter = AdapterArtifact(
        config=result.adapter_config, state_dict=result.adapter_state, model_card=card, base_model=base
    )
    return adapter, result.history, result.rollouts
