"""Wiring of `pocket_world`; `--tags=scenes` renders the pictures without training the models again."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.pocket_world.nodes import render_scenes, train_pocket_verifier, train_pocket_vlm


def create_pipeline(**_: object) -> Pipeline:
    """Return the pocket world: seeds and sizes in; pictures, annotations, prompts, verifier and VLM out."""
    return Pipeline(
        [
            node(
                render_scenes,
                inputs="params:pocket_scenes",
                outputs=["image_folder", "raw_annotations", "raw_prompts"],
                name="render_scenes",
                tags=["scenes"],
            ),
            node(
                train_pocket_verifier,
                inputs="params:pocket_verifier",
                outputs="verifier",
                name="train_pocket_verifier",
                tags=["models"],
            ),
            node(
                train_pocket_vlm,
                inputs=["verifier", "params:pocket_vlm"],
                outputs="policy_backbone",
                name="train_pocket_vlm",
                tags=["models"],
            ),
        ],
        tags=["pocket_world"],
    )
