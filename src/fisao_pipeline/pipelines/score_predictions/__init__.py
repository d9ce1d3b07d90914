"""Predictions of any model, made elsewhere, against annotations: figures, a row per item, what was left out."""

from fisao_pipeline.pipelines.score_predictions.pipeline import create_clip_pipeline, create_pipeline

__all__ = ["create_clip_pipeline", "create_pipeline"]
