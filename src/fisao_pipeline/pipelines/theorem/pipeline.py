"""Wiring of `theorem`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.theorem.nodes import draw_theorem_figure, trace_theorem_curves


def create_pipeline(**_: object) -> Pipeline:
    """Return the simulation: its parameters in; curves, the theorem's numbers and the figure out."""
    return Pipeline(
        [
            node(
                trace_theorem_curves,
                inputs=["params:theorem"],
                outputs=["theorem_curve", "theorem_summary"],
                name="trace_theorem_curves",
            ),
            node(
                draw_theorem_figure,
                inputs=["theorem_curve", "theorem_summary"],
                outputs="theorem_figure",
                name="draw_theorem_figure",
            ),
        ],
        tags=["theorem"],
    )
