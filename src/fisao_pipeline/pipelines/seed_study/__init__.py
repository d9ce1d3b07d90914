"""Pipeline `seed_study`: the whole method once per seed, and the mean of what comes out."""

from fisao_pipeline.pipelines.seed_study.pipeline import create_pipeline

__all__ = ["create_pipeline"]
