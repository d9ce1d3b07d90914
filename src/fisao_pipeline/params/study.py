"""Parameters of `ablation` and `seed_study`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from fisao_pipeline.params.base import Seed, StageParams


class Arm(StageParams):
    """One setting of a study: its name, and the parameters in which it differs from the rest of the configuration."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    set: dict[str, Any] = Field(
        description="Dotted parameter of a stage to its value: `policy_training.ppo.kl_coef: 0.05`."
    )


class StudyParams(StageParams):
    """Which settings the whole method is run with, and with which seeds each; one arm makes a study of seeds alone."""

    seeds: tuple[Seed, ...] = Field(min_length=1, description="Of sampling and training; evaluation keeps its own.")
    arms: tuple[Arm, ...] = Field(default=(Arm(name="default", set={}),), min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> StudyParams:
        names = [arm.name for arm in self.arms]
        for what, values in (("seeds", list(self.seeds)), ("names of arms", names)):
            if len(set(values)) < len(values):
                raise ValueError(f"{what} must differ, got {values}")
        return self
