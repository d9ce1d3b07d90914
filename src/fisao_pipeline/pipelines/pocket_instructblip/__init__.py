"""Beside the stages: train the pocket BLIP-2 and the pocket InstructBLIP."""

from fisao_pipeline.pipelines.pocket_instructblip.pipeline import create_pipeline

__all__ = ["create_pipeline"]
