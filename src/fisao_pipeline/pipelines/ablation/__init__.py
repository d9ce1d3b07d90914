"""Pipeline `ablation`: the whole method once per arm and seed, and the arms side by side."""

from fisao_pipeline.pipelines.ablation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
