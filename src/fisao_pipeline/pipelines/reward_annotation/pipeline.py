"""Wiring of `reward_annotation`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.reward_annotation.nodes import annotate_responses


def create_pipeline(**_: object) -> Pipeline:
    """Return the stage: responses, images, verifier in; mentions, baseline and token rewards out."""
    return Pipeline(
        [
            node(
                annotate_responses,
                inputs=[
                    "responses",
                    "image_manifest",
                    "image_folder",
                    "annotated_categories",
                    "verifier",
                    "params:reward_annotation",
                ],
                outputs=["object_mentions", "verifier_baseline", "token_rewards"],
                name="annotate_responses",
            )
        ],
        tags=["reward_annotation"],
    )
