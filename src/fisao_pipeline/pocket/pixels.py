"""Scenes as the pixels that the pocket models read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import ProcessorMixin

from fisao_pipeline.pocket.scenes import Scene, render_scene

IMAGE_PIXELS = 48
PATCH_PIXELS = 8
# Pictures that are rendered, or go through a tower, at once.
_AT_ONCE = 256


def scene_pixels(scenes: list[Scene], processor: ProcessorMixin) -> Tensor:
    """Rendered and preprocessed scenes, [n, 3, side, side]."""
    chunks = [
        processor.image_processor([render_scene(s) for s in scenes[i : i + _AT_ONCE]], return_tensors="pt")
        for i in range(0, len(scenes), _AT_ONCE)
    ]
    return torch.cat([chunk["pixel_values"] for chunk in chunks])


@torch.no_grad()
def seen_by(tower: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """What a frozen tower makes of each picture, computed once."""
    return torch.cat([tower(pixels[i : i + _AT_ONCE]) for i in range(0, len(pixels), _AT_ONCE)])
