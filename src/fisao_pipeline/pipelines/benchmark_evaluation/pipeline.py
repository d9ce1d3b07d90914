"""Wiring of `benchmark_evaluation`, the only stage that reads the held-out split."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.benchmark_evaluation.nodes import answer_held_out_prompts, compare_base_and_aligned


def create_pipeline(**_: object) -> Pipeline:
    """Return the stage: held-out prompts, backbone and adapter in; predictions, metrics and comparison out."""
    return Pipeline(
        [
            node(
                answer_held_out_prompts,
                inputs=[
                    "prompts",
                    "image_manifest",
                    "image_folder",
                    "policy_backbone",
                    "policy_adapter",
                    "params:benchmark_evaluation",
                ],
                outputs=["predictions", "rejected_questions"],
                name="answer_held_out_prompts",
            ),
            node(
                compare_base_and_aligned,
                inputs=["predictions", "image_manifest", "annotated_categories", "params:benchmark_evaluation"],
                outputs=["comparison", "benchmark_metrics"],
                name="compare_base_and_aligned",
            ),
        ],
        tags=["benchmark_evaluation"],
    )
