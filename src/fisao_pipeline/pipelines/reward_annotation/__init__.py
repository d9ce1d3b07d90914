"""Stage 3: find objects in the responses, score them with the verifier, turn scores into token rewards."""

from fisao_pipeline.pipelines.reward_annotation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
