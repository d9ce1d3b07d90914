"""Every stage's parameters as one typed block: a typo or a value out of range fails before any node runs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StageParams(BaseModel):
    """Base of all parameter blocks: unknown keys are errors and values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
