"""Wiring of `pope_questions`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.pope_questions.nodes import build_pope_questions


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline: annotations that its parameters name in; a file of questions for each set out."""
    return Pipeline(
        [
            node(
                build_pope_questions,
                inputs="params:pope_questions",
                outputs=["pope_questions_random", "pope_questions_popular", "pope_questions_adversarial"],
                name="build_pope_questions",
            )
        ],
        tags=["pope_questions"],
    )
