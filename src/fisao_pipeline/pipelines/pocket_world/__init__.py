"""Beside the stages: render the pocket world and train its two models."""

from fisao_pipeline.pipelines.pocket_world.pipeline import create_pipeline

__all__ = ["create_pipeline"]
