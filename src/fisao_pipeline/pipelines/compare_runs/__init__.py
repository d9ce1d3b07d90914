"""Any number of evaluated runs side by side, each against the first."""

from fisao_pipeline.pipelines.compare_runs.pipeline import create_pipeline

__all__ = ["create_pipeline"]
