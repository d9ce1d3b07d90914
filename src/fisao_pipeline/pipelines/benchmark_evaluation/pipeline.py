"""Wiring of `benchmark_evaluation`, the only stage that reads the held-out split."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.benchmark_evaluation.nodes import (
    answer_held_out_prompts,
    compare_base_and_aligned,
    count_verifier_errors,
    draw_reward_shift,
    drop_prediction_shards,
    score_predicted_mentions,
    write_comparison_table,
    write_report,
)


def create_pipeline(**_: object) -> Pipeline:
    """Return the stage: held-out prompts, backbone and adapter in; predictions, metrics, comparison and figures out."""
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
                    "prediction_shards",
                ],
                outputs=["predictions", "rejected_questions"],
                name="answer_held_out_prompts",
            ),
            node(
                drop_prediction_shards,
                # The first is there for the order: nothing is dropped before it is saved.
                inputs=[
                    "predictions",
                    "image_manifest",
                    "policy_backbone",
                    "policy_adapter",
                    "prediction_shards",
                    "params:benchmark_evaluation",
                ],
                outputs=None,
                name="drop_prediction_shards",
            ),
            node(
                compare_base_and_aligned,
                inputs=["predictions", "image_manifest", "annotated_categories", "params:benchmark_evaluation"],
                outputs=["comparison", "benchmark_metrics"],
                name="compare_base_and_aligned",
            ),
            node(
                score_predicted_mentions,
                inputs=[
                    "predictions",
                    "image_manifest",
                    "image_folder",
                    "annotated_categories",
                    "verifier",
                    "verifier_baseline",
                    "verifier_texts",
                ],
                outputs="prediction_mentions",
                name="score_predicted_mentions",
            ),
            node(
                count_verifier_errors,
                inputs="prediction_mentions",
                outputs="verifier_errors",
                name="count_verifier_errors",
            ),
            node(
                draw_reward_shift,
                inputs=["predictions", "prediction_mentions", "params:reporting"],
                outputs="reward_shift",
                name="draw_reward_shift",
            ),
            node(
                write_comparison_table,
                inputs="comparison",
                outputs="comparison_table",
                name="write_comparison_table",
            ),
            node(
                write_report,
                inputs=[
                    "comparison",
                    "predictions",
                    "prediction_mentions",
                    "verifier_errors",
                    "image_manifest",
                    "image_folder",
                    "verifier_baseline",
                    "training_history",
                    "score_distributions",
                    "reward_quality",
                    "reward_shift",
                    "lineage",
                    "params:reporting",
                ],
                outputs="report",
                name="write_report",
            ),
        ],
        tags=["benchmark_evaluation"],
    )
