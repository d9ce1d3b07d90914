"""Parameters of `response_sampling`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fisao_pipeline.params.base import Seed, StageParams


class ResponseSamplingParams(StageParams):
    """How the policy is asked: the same settings draw the cached first round and every later one."""

    responses_per_prompt: int = Field(ge=1, le=64, description="K, completions drawn for each prompt.")
    temperature: float = Field(gt=0, le=5, description="Divides the logits, in sampling and in logprobs alike.")
    max_new_tokens: int = Field(ge=1, le=4096, description="Longest completion, in tokens.")
    prompts_per_round: int = Field(ge=1, description="Training prompts of one PPO round; the first round is cached.")
    calibration_prompts: int = Field(ge=1, description="Calibration prompts at most.")
    batch_size: int = Field(ge=1, description="Completions drawn at once; another size draws other samples.")
    seed: Seed = Field(description="Of every draw.")
    # It came later; see BenchmarkEvaluationParams.
    responses_per_shard: int = Field(
        default=256, ge=1, description="Responses kept on disk at a time; a run that is killed loses no more."
    )
    sampler: Literal["in_process", "vllm"] = Field(
        default="in_process", description="What draws responses: the policy itself, or a vLLM engine beside it (CUDA)."
    )
    engine_memory: float = Field(
        default=0.45, gt=0, lt=1, description="Share of the device's memory that the engine takes; used by `vllm` only."
    )
