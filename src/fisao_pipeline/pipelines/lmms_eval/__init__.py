"""Benchmarks through lmms-eval, which runs in an environment of its own."""

from fisao_pipeline.pipelines.lmms_eval.pipeline import create_pipeline

__all__ = ["create_pipeline"]
