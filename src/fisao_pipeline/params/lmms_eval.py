"""Parameters of `lmms_eval`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fisao_pipeline.params.base import Seed, StageParams


class HarnessModel(StageParams):
    """How lmms-eval loads models of one kind."""

    model: str = Field(min_length=1, description="Its name for the class.")
    passed: tuple[Literal["device_map", "dtype"], ...] = Field(description="Settings of the backbone that it takes.")


class LmmsEvalParams(StageParams):
    """Which benchmarks lmms-eval measures of base and aligned model, and how."""

    python: str = Field(min_length=1, description="Python of the environment with lmms-eval.")
    tasks: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], ...] = Field(min_length=1)
    adapter: str = Field(min_length=1, description="`latest`, a version of `policy_adapter`, or a PEFT folder.")
    harness_models: dict[str, HarnessModel] = Field(description="By the kind of the backbone, its `model_type`.")
    model_args: dict[str, str | int | float | bool] = Field(description="More arguments of lmms-eval's class.")
    include_path: str | None = Field(min_length=1, description="Folder of task files of one's own.")
    limit: int | None = Field(ge=1, description="Questions of each task at most; null is all.")
    offline: bool = Field(description="Whether nothing may be downloaded.")
    bootstrap_resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    seed: Seed
