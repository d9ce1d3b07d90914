"""Nodes of `pocket_instructblip`. torch and transformers are imported inside: the registry must load fast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params import PocketVerifierParams, PocketVLMParams
from fisao_pipeline.pipelines.saving import saver


def train_pocket_blip2(params: PocketVerifierParams) -> Callable[[Path], None]:
    """Train the pocket BLIP-2, a verifier; returns what saves it."""
    from fisao_pipeline.pocket.contrastive import train_blip2  # noqa: PLC0415

    return saver(*train_blip2(params))


def train_pocket_instructblip(verifier: ModelSource, params: PocketVLMParams) -> Callable[[Path], None]:
    """Train the pocket InstructBLIP around the BLIP-2's image tower; returns what saves it."""
    from transformers import Blip2ForImageTextRetrieval  # noqa: PLC0415

    from fisao_pipeline.models.loading import load_pretrained  # noqa: PLC0415
    from fisao_pipeline.pocket.captioning import train_instructblip  # noqa: PLC0415

    return saver(*train_instructblip(*load_pretrained(Blip2ForImageTextRetrieval, verifier), params))
