"""Parameters of `pope_questions`."""

from __future__ import annotations

from pydantic import Field

from fisao_pipeline.params.base import Seed, StageParams


class PopeQuestionsParams(StageParams):
    """Which POPE questions are built from annotations."""

    instances: str | None = Field(min_length=1, description="COCO instances, or JSON of image ids with object lists.")
    images: int = Field(ge=1, description="Images with enough objects that are asked about.")
    objects_per_image: int = Field(ge=1, description="Questions with the answer yes, and as many with no.")
    seed: Seed
