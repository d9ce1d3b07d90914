"""Beside the stages: Theorem 3.1 in numbers, without any model or image."""

from fisao_pipeline.pipelines.theorem.pipeline import create_pipeline

__all__ = ["create_pipeline"]
