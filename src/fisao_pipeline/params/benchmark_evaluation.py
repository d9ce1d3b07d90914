"""Parameters of `benchmark_evaluation`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fisao_pipeline.params.base import Seed, StageParams

EvaluatedDecoding = Literal["greedy", "sampled", "beam"]


class BenchmarkEvaluationParams(StageParams):
    """Base against aligned on held-out images."""

    held_out_images: int = Field(ge=1, description="Images at most.")
    max_new_tokens: int = Field(ge=1, le=4096)
    temperature: float = Field(gt=0, le=5, description="Of the sampled decoding; the other one is greedy.")
    samples_per_prompt: int = Field(ge=1, description="Completions per prompt in the sampled decoding.")
    pope_images: int = Field(ge=0, description="Images with three or more objects that questions are asked about.")
    vocabulary: str = Field(min_length=1)
    batch_size: int = Field(ge=1)
    bootstrap_resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    seed: Seed
    # Those below came later. At its default each does what was done before it was there, and is no part of the name of
    # a study's row (experiments.fingerprints), so that finished rows stay.
    decodings: tuple[EvaluatedDecoding, ...] = Field(
        default=("greedy", "sampled"), min_length=1, description="How both models answer, each in turn."
    )
    num_beams: int = Field(default=5, ge=2, le=64, description="Of the decoding `beam`.")
    drop_unfinished_sentence: bool = Field(
        default=False, description="Whether CHAIR reads a caption that max_new_tokens cut off up to its last sentence."
    )
    word_chain: Literal["spans", "reference"] = Field(
        default="spans", description="How CHAIR finds words in captions; see docs/evaluation.md."
    )
    examples: int = Field(default=5, ge=0, le=1000, description="Of each kind: images won, lost and tied.")
    responses_per_shard: int = Field(
        default=256, ge=1, description="Answers kept on disk at a time; a run that is killed loses no more."
    )

    @model_validator(mode="after")
    def _distinct_decodings(self) -> BenchmarkEvaluationParams:
        if len(set(self.decodings)) < len(self.decodings):
            raise ValueError(f"decodings must differ, got {list(self.decodings)}")
        return self
