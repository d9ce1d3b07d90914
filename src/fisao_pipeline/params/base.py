"""What parameter blocks share: their base, seeds, the splits of the images, and how long an image may be."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field


class StageParams(BaseModel):
    """Base of all parameter blocks: unknown keys, infinity and NaN are errors; values never change after loading."""

    # Validators are built for the blocks that are used, when they are: all of them would slow down every command.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


Split = Literal["calibration", "training", "probe", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)
# Longer side over shorter one of an image, at most. Qwen's own limit; and a processor that scales the shorter side to a
# fixed length makes gigabytes of a longer strip.
MAX_ASPECT_RATIO = 200
# The widest range that every random generator takes; NumPy's ends here.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
