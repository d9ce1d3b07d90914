"""Wiring of `ablation`, and the node that it shares with `seed_study`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node
from kedro.pipeline.node import Node

from fisao_pipeline.datasets.locks import SHARES_FOLDER
from fisao_pipeline.pipelines.ablation.nodes import check_study, plot_study, run_study, write_study


def study_nodes(study: str, output: str, report: tuple[str, ...] = ()) -> list[Node]:
    """The node that runs a study, and the one that fails at the very end if a row failed.

    Ingested prompts, models and all stages' parameters in, a comparison of arms out. The failed rows go from node to
    node in memory, so that the command to go on with begins at the study, not at the check.

    Args:
        study: Name of the study and of its block of parameters.
        output: Catalog name of the comparison.
        report: What else shall be saved before a failed row ends the run.
    """
    failed = f"{study}_failed_rows"
    return [
        node(
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
            outputs=[output, failed],
            name=f"run_{study}",
        ),
        node(check_study, inputs=[failed, output, *report], outputs=None, name=f"check_{study}"),
    ]


def create_pipeline(**_: object) -> Pipeline:
    """Return the study of all arms, its table and its plots."""
    plots = ["ablation_plot", "ablation_budget_plot", "ablation_image", "ablation_budget_image"]
    return Pipeline(
        [
            *study_nodes("ablation", "ablation_comparison", report=("ablation_table", "ablation_plot")),
            node(write_study, inputs="ablation_comparison", outputs="ablation_table", name="write_ablation"),
            node(plot_study, inputs="ablation_comparison", outputs=plots, name="plot_ablation"),
        ],
        tags=["ablation", SHARES_FOLDER],
    )
