"""Parameters of `plan`."""

from __future__ import annotations

from pydantic import Field

from fisao_pipeline.params.base import StageParams


class Card(StageParams):
    """A GPU: what it holds and what it computes at most."""

    name: str = Field(min_length=1, description="Part of the name that CUDA gives it.")
    memory_gib: float = Field(gt=0, description="Usable memory in GiB, 2^30 bytes.")
    bfloat16_tflops: float = Field(gt=0, description="Peak in 10^12 operations a second, dense, 16-bit weights.")
    float32_tflops: float = Field(gt=0, description="The same for float32 weights, without TF32.")


class Utilisation(StageParams):
    """Share of a card's peak that each phase is assumed to reach (MFU)."""

    sampling: float = Field(gt=0, le=1, description="Token by token: it waits for memory most of the time.")
    scoring: float = Field(gt=0, le=1, description="Forward passes over whole sequences.")
    update: float = Field(gt=0, le=1, description="Forward and backward passes.")


class PlanParams(StageParams):
    """What a plan assumes where configurations do not tell."""

    cards: tuple[Card, ...] = Field(
        min_length=1, description="Planned for where no GPU is found; peaks of one that is."
    )
    utilisation: Utilisation
    prompt_tokens: int = Field(ge=1, description="Longest prompt with its chat template, in tokens, without its image.")
    image_tokens: int | None = Field(
        ge=1, description="What an image takes of the prompt; null asks the configuration."
    )
    response_share: float = Field(gt=0, le=1, description="Mean length of a response over max_new_tokens.")
    reserve_gib: float = Field(ge=0, description="CUDA's own memory, fragments and what else uses the card.")
