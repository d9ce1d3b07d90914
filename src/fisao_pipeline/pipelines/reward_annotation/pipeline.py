"""Wiring of `reward_annotation`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.reward_annotation.nodes import (
    annotate_responses,
    draw_reward_quality,
    draw_score_distributions,
)


def create_pipeline(**_: object) -> Pipeline:
    """Return the stage: responses, images and verifier in; mentions, baseline, token rewards and figures out."""
    return Pipeline(
        [
            node(
                annotate_responses,
                inputs=[
                    "responses",
                    "image_manifest",
                    "image_folder",
                    "annotated_categories",
                    "policy_backbone",
                    "verifier",
                    "params:reward_annotation",
                    "verifier_texts",
                ],
                outputs=["object_mentions", "verifier_baseline", "token_rewards", "response_scores"],
                name="annotate_responses",
            ),
            node(
                draw_score_distributions,
                inputs=[
                    "object_mentions",
                    "response_scores",
                    "verifier_baseline",
                    "params:reporting",
                ],
                outputs="score_distributions",
                name="draw_score_distributions",
            ),
            node(
                draw_reward_quality,
                inputs=[
                    "responses",
                    "response_scores",
                    "token_rewards",
                    "image_manifest",
                    "verifier_baseline",
                    "params:reporting",
                ],
                outputs="reward_quality",
                name="draw_reward_quality",
            ),
        ],
        tags=["reward_annotation"],
    )
