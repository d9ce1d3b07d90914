"""Wiring of `seed_study`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.seed_study.nodes import run_seeds


def create_pipeline(**_: object) -> Pipeline:
    """Return the study: ingested prompts, models and all stages' parameters in; a comparison per seed and means out."""
    return Pipeline(
        [
            node(
                run_seeds,
                inputs=[
                    "prompts",
                    "image_manifest",
                    "image_folder",
                    "annotated_categories",
                    "policy_backbone",
                    "verifier",
                    "params:response_sampling",
                    "params:reward_annotation",
                    "params:policy_training",
                    "params:benchmark_evaluation",
                    "params:seed_study",
                ],
                outputs="seed_comparison",
                name="run_seeds",
            )
        ],
        tags=["seed_study"],
    )
