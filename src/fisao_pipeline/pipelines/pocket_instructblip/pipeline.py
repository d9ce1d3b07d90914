"""Wiring of `pocket_instructblip`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.pocket_instructblip.nodes import train_pocket_blip2, train_pocket_instructblip


def create_pipeline(**_: object) -> Pipeline:
    """Return the recipe of the two models that the environment of the same name runs on: verifier, then policy."""
    return Pipeline(
        [
            node(
                train_pocket_blip2,
                inputs=["pocket_clip", "params:pocket_blip2"],
                outputs="pocket_blip2",
                name="train_pocket_blip2",
            ),
            node(
                train_pocket_instructblip,
                inputs=["pocket_blip2", "pocket_llava", "params:pocket_instructblip"],
                outputs="pocket_instructblip",
                name="train_pocket_instructblip",
            ),
        ],
        tags=["pocket_instructblip"],
    )
