"""Stage 2: draw K responses for each calibration prompt and for the first round's training prompts."""

from fisao_pipeline.pipelines.response_sampling.pipeline import create_pipeline

__all__ = ["create_pipeline"]
