"""Parameters of the process, whatever the stage."""

from __future__ import annotations

from pydantic import Field

from fisao_pipeline.params.base import StageParams


class RuntimeParams(StageParams):
    """How this process computes, whatever the stage."""

    deterministic: bool = Field(description="Whether only algorithms that repeat bit by bit on a GPU are used.")
    force: bool = Field(default=False, description="Whether nodes are run whose outputs are there and fresh, too.")
