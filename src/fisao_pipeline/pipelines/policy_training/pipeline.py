"""Wiring of `policy_training`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.policy_training.nodes import drop_training_checkpoints, train_policy


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
                    "training_checkpoints",
                    "response_shards",
                    "verifier_texts",
                ],
                outputs=["policy_adapter", "training_history", "training_rollouts"],
                name="train_policy",
            ),
            node(
                drop_training_checkpoints,
                # The adapter is there for the order too: it is saved with all else that the training makes.
                inputs=["policy_adapter", "training_checkpoints", "response_shards"],
                outputs=None,
                name="drop_training_checkpoints",
            ),
        ],
        tags=["policy_training"],
    )
