"""Wiring of `lmms_eval`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.lmms_eval.nodes import compare_lmms_results, run_lmms_eval


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline: base model and adapter in, a comparison by task out."""
    return Pipeline(
        [
            node(
                run_lmms_eval,
                inputs=["policy_backbone", "policy_adapter_versions", "lmms_results", "params:lmms_eval"],
                outputs=["lmms_found", "lmms_settings"],
                name="run_lmms_eval",
            ),
            node(
                compare_lmms_results,
                inputs=["lmms_found", "lmms_settings", "params:lmms_eval"],
                outputs="lmms_comparison",
                name="compare_lmms_results",
            ),
        ],
        tags=["lmms_eval"],
    )
