"""Stage 5: base against aligned on held-out images."""

from fisao_pipeline.pipelines.benchmark_evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
