"""Stage 1: check the images, join the annotations, deal the prompts into splits."""

from fisao_pipeline.pipelines.image_ingestion.pipeline import create_pipeline

__all__ = ["create_pipeline"]
