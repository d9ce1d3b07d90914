"""Wiring of `compare_runs`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.compare_runs.nodes import compare_the_runs, write_runs_table


def create_pipeline(**_: object) -> Pipeline:
    """Return the comparison: versions of predictions and the annotations in; figures of each pair and a table out."""
    return Pipeline(
        [
            node(
                compare_the_runs,
                inputs=[
                    "predictions_versions",
                    "image_manifest",
                    "annotated_categories",
                    "params:benchmark_evaluation",
                    "params:compare_runs",
                ],
                outputs="runs_comparison",
                name="compare_the_runs",
            ),
            node(write_runs_table, inputs="runs_comparison", outputs="runs_table", name="write_runs_table"),
        ],
        tags=["compare_runs"],
    )
