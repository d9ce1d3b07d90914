"""Parameters of `compare_runs`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fisao_pipeline.params.base import StageParams

SettingName = Literal[
    "decodings",
    "max_new_tokens",
    "temperature",
    "samples_per_prompt",
    "num_beams",
    "images",
    "prompts",
    "questions",
    "truncation_rule",
]


class RunSettings(StageParams):
    """How answers were made, for predictions without a `provenance.json` that tells it; null is not known."""

    max_new_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, gt=0, description="Of the decoding `sampled`.")
    samples_per_prompt: int | None = Field(default=None, ge=1, description="Of the decoding `sampled`.")
    num_beams: int | None = Field(default=None, ge=2, description="Of the decoding `beam`.")


class ComparedRun(StageParams):
    """One run of a comparison: which predictions, and which of their models."""

    predictions: str = Field(min_length=1, description="A version of `predictions`, `latest`, or a file.")
    model: Literal["base", "aligned"] = Field(default="aligned", description="Whose rows, where there are both.")
    settings: RunSettings = Field(default=RunSettings(), description="Takes precedence over what is recorded.")

    @model_validator(mode="before")
    @classmethod
    def _named_alone(cls, value: Any) -> Any:
        return {"predictions": value} if isinstance(value, str) else value


class CompareRunsParams(StageParams):
    """Which runs are compared, each against the first."""

    runs: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], ComparedRun] = Field(
        description="By the names that the table shall have; the first is what the others are compared with."
    )
    allow_different: tuple[SettingName, ...] = Field(
        description="Settings in which the runs may differ; in any other a difference is refused."
    )
