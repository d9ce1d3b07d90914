"""Wiring of `ablation`, and the node that it shares with `seed_study`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node
from kedro.pipeline.node import Node

from fisao_pipeline.pipelines.ablation.nodes import plot_study, run_study


def study_node(study: str, output: str) -> Node:
    """A node that runs a study: ingested prompts, models and all stages' parameters in, a comparison of arms out.

    Args:
        study: Name of the study and of its block of parameters.
        output: Catalog name of the comparison.
    """
    return node(
        run_study,
        inputs=[
            "prompts",
            "image_manifest",
            "image_folder",
            "annotated_categories",
            "policy_backbone",
            "verifier",
            "study_rows",
            "study_cache",
            "params:response_sampling",
            "params:reward_annotation",
            "params:policy_training",
            "params:benchmark_evaluation",
            f"params:{study}",
        ],
        outputs=output,
        name=f"run_{study}",
    )


def create_pipeline(**_: object) -> Pipeline:
    """Return the study of all arms, and its plot."""
    return Pipeline(
        [
            study_node("ablation", "ablation_comparison"),
            node(plot_study, inputs="ablation_comparison", outputs="ablation_plot", name="plot_ablation"),
        ],
        tags=["ablation"],
    )
