"""Parameters of the pocket world and of the recipes of its models."""

from __future__ import annotations

from pydantic import Field, model_validator

from fisao_pipeline.params.base import Seed, StageParams


class PocketScenesParams(StageParams):
    """How many pictures the pocket world renders for a user to work with."""

    scenes: int = Field(ge=10)
    seed: Seed = Field(description="Differs from the models' seeds: they have not seen these scenes.")


class PocketVerifierParams(StageParams):
    """The recipe of a pocket verifier, CLIP or BLIP-2."""

    scenes: int = Field(ge=8, description="Scenes rendered for training.")
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2, description="Image-caption pairs a step; each is the others' contrast.")
    learning_rate: float = Field(gt=0, description="Peak of a cosine schedule.")
    seed: Seed

    @model_validator(mode="after")
    def _batch_fits(self) -> PocketVerifierParams:
        if self.batch_size > self.scenes:
            raise ValueError(f"batch_size {self.batch_size} exceeds scenes {self.scenes}")
        return self


class PocketPhase(StageParams):
    """One phase of a pocket captioner's training."""

    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0, description="Peak of a cosine schedule.")
    invent_share: float = Field(ge=0, le=1, description="Share of captions that name habitual but absent objects.")


class PocketVLMParams(StageParams):
    """The recipe of a pocket captioner, LLaVA or InstructBLIP."""

    scenes: int = Field(ge=8, description="Scenes rendered for training.")
    phases: tuple[PocketPhase, ...] = Field(min_length=1)
    batch_size: int = Field(ge=1, description="Pictures a step.")
    captions_per_image: int = Field(ge=1, description="Captions of each picture of a step.")
    questions_per_image: int = Field(ge=0, description="Yes/no questions about each picture of a step.")
    question_weight: float = Field(ge=0, description="Weight of the answers' loss beside the captions'.")
    seed: Seed

    @model_validator(mode="after")
    def _batch_fits(self) -> PocketVLMParams:
        if self.batch_size > self.scenes:
            raise ValueError(f"batch_size {self.batch_size} exceeds scenes {self.scenes}")
        return self
