"""POPE's three sets of questions from annotations, as files that any model can be asked with."""

from fisao_pipeline.pipelines.pope_questions.pipeline import create_pipeline

__all__ = ["create_pipeline"]
