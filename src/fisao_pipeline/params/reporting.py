"""Parameters of figures and report."""

from __future__ import annotations

from pydantic import Field

from fisao_pipeline.params.base import Seed, StageParams


class ReportingParams(StageParams):
    """How the figures and the report are drawn."""

    bins: int = Field(ge=2, le=500, description="Of the histograms, and of the overlap coefficient.")
    max_points: int = Field(ge=1, description="Points of a scatter plot at most; correlations are of all responses.")
    bootstrap_resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    picture_pixels: int = Field(ge=16, le=2048, description="Longest side of a picture in the report.")
    pictures_bytes: int = Field(
        ge=10_000, description="Of all pictures in the report; where they would be heavier, all are made coarser."
    )
    seed: Seed = Field(description="Of the resampling.")
