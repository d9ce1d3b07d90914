"""Nodes of `pocket_instructblip`. torch and transformers are imported inside: the registry must load fast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params.pocket import PocketVerifierParams, PocketVLMParams
from fisao_pipeline.pipelines.saving import saver


def train_pocket_blip2(clip: ModelSource, params: PocketVerifierParams) -> Callable[[Path], None]:
    """Train the pocket BLIP-2, a verifier, around the pocket CLIP's image tower; returns what saves it."""
    from transformers import CLIPModel  # noqa: PLC0415

    from fisao_pipeline.models.loading import load_pretrained  # noqa: PLC0415
    from fisao_pipeline.pocket.contrastive import train_blip2  # noqa: PLC0415

    model, _ = load_pretrained(CLIPModel, clip)
    return saver(*train_blip2(model, params))


def train_pocket_instructblip(
    blip2: ModelSource, llava: ModelSource, params: PocketVLMParams
) -> Callable[[Path], None]:
    """Train the pocket InstructBLIP, from the BLIP-2 and the LLaVA's language model; returns what saves it."""
    from transformers import Blip2ForImageTextRetrieval, LlavaForConditionalGeneration  # noqa: PLC0415

    from fisao_pipeline.models.loading import load_pretrained  # noqa: PLC0415
    from fisao_pipeline.pocket.captioning import train_instructblip  # noqa: PLC0415

    verifier = load_pretrained(Blip2ForImageTextRetrieval, blip2)
    speaker = load_pretrained(LlavaForConditionalGeneration, llava)
    return saver(*train_instructblip(verifier, speaker, params))
