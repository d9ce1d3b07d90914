"""Wiring of `policy_training`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.policy_training.nodes import train_policy


def create_pipeline(**_: object) -> Pipeline:
    """Return the stage: cached first round, backbone and verifier in; adapter, history and later rollouts out."""
    return Pipeline(
        [
            node(
                train_policy,
                inputs=[
                    "prompts",
                    "rejected_prompts",
                    "image_manifest",
                    "image_folder",
                    "annotated_categories",
                    "responses",
                    "token_rewards",
                    "verifier_baseline",
                    "policy_backbone",
                    "verifier",
                    "params:response_sampling",
                    "params:reward_annotation",
                    "params:policy_training",
                ],
                outputs=["policy_adapter", "training_history", "training_rollouts"],
                name="train_policy",
            )
        ],
        tags=["policy_training"],
    )
