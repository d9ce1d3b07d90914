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
    BatchEncoding,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from fisao_pipeline.params.pocket import PocketVerifierParams
from fisao_pipeline.pocket.blip_builders import build_blip2, build_blip2_processor
from fisao_pipeline.pocket.builders import build_verifier, build_verifier_processor
from fisao_pipeline.pocket.descent import descend
from fisao_pipeline.pocket.language import short_caption
from fisao_pipeline.pocket.pixels import scene_pixels, seen_by
from fisao_pipeline.pocket.scenes import draw_scenes


class ClipContrast(nn.Module):
    """CLIP's own symmetric contrastive loss; the image tower is trained."""

    def see(self, model: CLIPModel, pixels: Tensor) -> Tensor:
        """What is computed of pictures once: nothing."""
        return pixels

    def forward(self, model: CLIPModel, text: BatchEncoding, seen: Tensor) -> Float[Tensor, ""]:
        """Loss of captions and pictures in pairs."""
        return model(**text, pixel_values=seen, return_loss=True).loss


class Blip2Contrast(nn.Module):
    """BLIP-2's contrastive loss: a picture's cosine with a text is the best of its queries'; the image tower is frozen.

    The temperature is learnt as there, and forgotten as there: transformers' class has no place for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def see(self, model: Blip2ForImageTextRetrieval, pixels: Tensor) -> Float[Tensor, "n p d"]:
        """What is computed of pictures once: all that the image tower sees."""
        return seen_by(lambda part: model.vision_model(part).last_hidden_state, pixels)

    def forward(
        self, model: Blip2ForImageTextRetrieval, text: BatchEncoding, seen: Float[Tensor, "b p d"]
    ) -> Float[Tensor, ""]:
        """Loss of captions and pictures in pairs."""
        queries = model.query_tokens.expand(len(seen), -1, -1)
        found = model.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        words = model.embeddings(input_ids=text["input_ids"])
        said = model.qformer(query_embeds=words, query_length=0, attention_mask=text["attention_mask"])
        images = functional.normalize(model.vision_projection(found), dim=-1)
        texts = functional.normalize(model.text_projection(said.last_hidden_state[:, 0]), dim=-1)
        logits = self.log_scale.exp() * (images @ texts.T).amax(dim=1)
        own = torch.arange(len(logits))
        return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def train_clip(params: PocketVerifierParams) -> tuple[CLIPModel, CLIPProcessor]:
    """Train the pocket CLIP."""
    return _train(params, build_verifier_processor, build_verifier, ClipContrast(), "pocket verifier")


def train_blip2(clip: CLIPModel, params: PocketVerifierParams) -> tuple[Blip2ForImageTextRetrieval, Blip2Processor]:
    """Train the pocket BLIP-2 around the CLIP's frozen image tower; no reward reads its matching head, which is not."""
    contrast = Blip2Contrast()
    return _train(params, build_blip2_processor, lambda made: build_blip2(made, clip), contrast, "pocket BLIP-2")


def _train(
    params: PocketVerifierParams,
    build_processor: Callable[[Iterable[str]], ProcessorMixin],
    build_model: Callable[[Any], PreTrainedModel],
    contrast: ClipContrast | Blip2Contrast,
    name: str,
) -> tuple[Any, Any]:
    torch.manual_seed(params.seed)
    rng = random.Random(params.seed)
    scenes = draw_scenes(params.scenes, params.seed)
    processor = build_processor(short_caption(rng, s) for s in scenes)
    model = build_model(processor).train()
    seen = contrast.see(model, scene_pixels(scenes, processor))

    def losses() -> tuple[Tensor, dict[str, Tensor]]:
        chosen = rng.sample(range(params.scenes), params.batch_size)
        captions = [short_caption(rng, scenes[i]) for i in chosen]
        text = processor.tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        loss = contrast(model, text, seen[chosen])
        return loss, {"loss": loss}

    parameters = [p for p in (*model.parameters(), *contrast.parameters()) if p.requires_grad]
    descend(parameters, losses, params.steps, params.learning_rate, weight_decay=0.05, name=name)
    return model.eval(), processor
