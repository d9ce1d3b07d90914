"""Wiring of `response_sampling`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.response_sampling.nodes import drop_response_shards, sample_policy_responses


def create_pipeline(**_: object) -> Pipeline:
    """Return the stage: prompts, images and backbone in; responses and prompts that are too long out."""
    return Pipeline(
        [
            node(
                sample_policy_responses,
                inputs=[
                    "prompts",
                    "image_manifest",
                    "image_folder",
                    "policy_backbone",
                    "params:response_sampling",
                    "response_shards",
                ],
                outputs=["responses", "rejected_prompts"],
                name="sample_responses",
            ),
            node(
                drop_response_shards,
                # The first is there for the order: it is saved with the responses, and a smaller table to load.
                inputs=[
                    "rejected_prompts",
                    "image_manifest",
                    "policy_backbone",
                    "response_shards",
                    "params:response_sampling",
                ],
                outputs=None,
                name="drop_response_shards",
            ),
        ],
        tags=["response_sampling"],
    )
