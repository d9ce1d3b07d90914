"""How the verifiers learnt what they know: pictures against short true captions, each pair against all others."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from fisao_pipeline.params import PocketVerifierParams
from fisao_pipeline.pocket.blip_builders import build_blip2, build_blip2_processor
from fisao_pipeline.pocket.builders import build_verifier, build_verifier_processor
from fisao_pipeline.pocket.descent import descend
from fisao_pipeline.pocket.language import short_caption
from fisao_pipeline.pocket.pixels import scene_pixels
from fisao_pipeline.pocket.scenes import draw_scenes


class ClipContrast(nn.Module):
    """CLIP's own symmetric contrastive loss."""

    def forward(self, model: CLIPModel, text: Any, pixels: Tensor) -> Float[Tensor, ""]:
        """Of captions and pictures in pairs."""
        return model(**text, pixel_values=pixels, return_loss=True).loss


class Blip2Contrast(nn.Module):
    """BLIP-2's contrastive loss: a picture's cosine with a text is the best of its queries'.

    The temperature is learnt as there, and forgotten as there: transformers' class has no place for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, model: Blip2ForImageTextRetrieval, text: Any, pixels: Tensor) -> Float[Tensor, ""]:
        """Of captions and pictures in pairs."""
        cosines = model(
            pixel_values=pixels, input_ids=text["input_ids"], attention_mask=text["attention_mask"]
        ).logits_per_image
        logits = self.log_scale.exp() * cosines
        own = torch.arange(len(logits))
        return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def train_clip(params: PocketVerifierParams) -> tuple[CLIPModel, CLIPProcessor]:
    """Train the pocket CLIP."""
    return _train(params, build_verifier_processor, build_verifier, ClipContrast(), "pocket verifier")


def train_blip2(params: PocketVerifierParams) -> tuple[Blip2ForImageTextRetrieval, Blip2Processor]:
    """Train the pocket BLIP-2; its matching head, which no reward reads, stays as it is."""
    return _train(params, build_blip2_processor, build_blip2, Blip2Contrast(), "pocket BLIP-2")


def _train(
    params: PocketVerifierParams,
    build_processor: Callable[[Iterable[str]], ProcessorMixin],
    build_model: Callable[[Any], PreTrainedModel],
    contrast: nn.Module,
    name: str,
) -> tuple[Any, Any]:
    torch.manual_seed(params.seed)
    rng = random.Random(params.seed)
    scenes = draw_scenes(params.scenes, params.seed)
    processor = build_processor(short_caption(rng, s) for s in scenes)
    model = build_model(processor).train()
    pixels = scene_pixels(scenes, processor)

    def losses() -> tuple[Tensor, dict[str, Tensor]]:
        chosen = rng.sample(range(params.scenes), params.batch_size)
        captions = [short_caption(rng, scenes[i]) for i in chosen]
        text = processor.tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        loss = contrast(model, text, pixels[chosen])
        return loss, {"loss": loss}

    parameters = [*model.parameters(), *contrast.parameters()]
    descend(parameters, losses, params.steps, params.learning_rate, weight_decay=0.05, name=name)
    return model.eval(), processor
