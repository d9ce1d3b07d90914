"""Parameters of `image_ingestion`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from fisao_pipeline.params.base import Seed, Split, StageParams


class ImageIngestionParams(StageParams):
    """Which images are accepted, what is asked about them where no prompts are given, and who sees which image."""

    template_prompt: str = Field(pattern=r"\S", description="The prompt of every image when there is no prompts file.")
    split_fractions: dict[Split, Annotated[float, Field(ge=0, le=1)]] = Field(description="Shares of images; sum 1.")
    source_splits: dict[str, Annotated[tuple[Split, ...], Field(min_length=1)]] = Field(
        description="Splits that images of a folder, or listed in an annotation file, may go to."
    )
    template_splits: tuple[Split, ...] = Field(
        description="Splits whose images get the template where a prompts file names none for them."
    )
    max_prompts_per_file: int | None = Field(ge=1, description="The first usable ones of each file; None for all.")
    required_splits: tuple[Split, ...] = Field(description="An empty one of these is an error, another a warning.")
    seed: Seed = Field(description="Another seed deals the images into other splits.")
    max_pixels: int = Field(ge=1, le=178_956_970, description="Width times height; Pillow's own limit is the highest.")
    min_side_pixels: int = Field(ge=1, description="Shortest side of an accepted image.")
    max_rejected_share: float = Field(ge=0, le=1, description="Share of unusable files that is still tolerated.")
    workers: int = Field(ge=1, le=64, description="Threads that decode images.")

    @model_validator(mode="after")
    def _check_across_fields(self) -> ImageIngestionParams:
        total = sum(self.split_fractions.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"split_fractions must sum to 1, they sum to {total:g}")
        for source, splits in self.source_splits.items():
            if not source.strip("/"):
                raise ValueError(f"source_splits: {source!r} names no folder; leave it out to mean all images")
            if len(set(splits)) > 1 and not any(self.split_fractions.get(split) for split in splits):
                raise ValueError(f"source_splits: the split_fractions of {', '.join(splits)} ({source}) are all 0")
        if self.min_side_pixels**2 > self.max_pixels:
            raise ValueError(f"min_side_pixels {self.min_side_pixels} leaves no image within max_pixels")
        return self
