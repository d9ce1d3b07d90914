"""Beside the stages: what a run will need, from configurations alone, before any GPU time is spent."""

from fisao_pipeline.pipelines.plan.pipeline import create_pipeline

__all__ = ["create_pipeline"]
