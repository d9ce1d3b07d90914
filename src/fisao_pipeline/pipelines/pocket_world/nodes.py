"""Nodes of `pocket_world`. torch and transformers are imported inside: the registry must load fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params.pocket import PocketScenesParams, PocketVerifierParams, PocketVLMParams
from fisao_pipeline.pipelines.saving import saver
from fisao_pipeline.pocket.scenes import draw_scenes
from fisao_pipeline.pocket.world import coco_annotations, pictures, prompt_rows


def render_scenes(
    params: PocketScenesParams,
) -> tuple[Iterator[tuple[str, Image.Image]], dict[str, Any], list[dict[str, str]]]:
    """Pictures, COCO annotations and prompts of scenes that the pocket models were not trained on."""
    scenes = draw_scenes(params.scenes, params.seed)
    return pictures(scenes), coco_annotations(scenes, params.seed), prompt_rows(scenes, params.seed)


def train_pocket_verifier(params: PocketVerifierParams) -> Callable[[Path], None]:
    """Train the pocket CLIP; returns what saves it."""
    from fisao_pipeline.pocket.contrastive import train_clip  # noqa: PLC0415

    return saver(*train_clip(params))


def train_pocket_vlm(verifier: ModelSource, params: PocketVLMParams) -> Callable[[Path], None]:
    """Train the pocket LLaVA around the verifier's image tower; returns what saves it."""
    from transformers import CLIPModel  # noqa: PLC0415

    from fisao_pipeline.models.loading import load_pretrained  # noqa: PLC0415
    from fisao_pipeline.pocket.captioning import train_llava  # noqa: PLC0415

    clip, _ = load_pretrained(CLIPModel, verifier)
    return saver(*train_llava(clip, params))
