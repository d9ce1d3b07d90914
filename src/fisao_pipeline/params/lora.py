"""Parameters of the adapter: apart from its stage, since models are built with them."""

from __future__ import annotations

from pydantic import Field

from fisao_pipeline.params.base import StageParams


class LoraParams(StageParams):
    """The adapter: low-rank updates of linear layers of the language tower."""

    rank: int = Field(ge=1, le=1024)
    alpha: float = Field(gt=0)
    targets: tuple[str, ...] = Field(min_length=1, description="Names of linear layers in the language tower.")
