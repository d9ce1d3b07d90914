"""Wiring of `score_predictions`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.score_predictions.nodes import (
    read_scoring_inputs,
    score_captions_with_verifier,
    score_inputs,
)


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline: the files that its parameters name in; figures, items and what was left out.

    What was left out is saved before the second node may refuse to go on without it.
    """
    return Pipeline(
        [
            node(
                read_scoring_inputs,
                inputs="params:score_predictions",
                outputs=["scoring_inputs", "rejected_predictions"],
                name="read_scoring_inputs",
            ),
            node(
                score_inputs,
                inputs=["scoring_inputs", "params:score_predictions"],
                outputs=["prediction_scores", "scored_items"],
                name="score_inputs",
            ),
        ],
        tags=["score_predictions"],
    )


def create_clip_pipeline() -> Pipeline:
    """Return `clip_score`: captions of images in the folder, scored by the verifier of the catalog."""
    return Pipeline(
        [
            node(
                score_captions_with_verifier,
                inputs=["image_folder", "verifier", "params:score_predictions"],
                outputs=["scoring_inputs", "rejected_predictions"],
                name="score_captions_with_verifier",
            ),
            *create_pipeline().only_nodes("score_inputs").nodes,
        ],
        tags=["clip_score"],
    )
