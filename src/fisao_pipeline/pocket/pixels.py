"""Scenes as the pixels that the pocket models read."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import ProcessorMixin

from fisao_pipeline.pocket.scenes import Scene, render_scene

IMAGE_PIXELS = 48
PATCH_PIXELS = 8
# Rendered pictures in memory at once.
_SCENES_AT_ONCE = 256


def scene_pixels(scenes: list[Scene], processor: ProcessorMixin) -> Tensor:
    """Rendered and preprocessed scenes, [n, 3, side, side]."""
    chunks = [
        processor.image_processor([render_scene(s) for s in scenes[i : i + _SCENES_AT_ONCE]], return_tensors="pt")
        for i in range(0, len(scenes), _SCENES_AT_ONCE)
    ]
    return torch.cat([chunk["pixel_values"] for chunk in chunks])
