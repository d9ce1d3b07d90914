"""The verifier: an image tower and a text tower in one space, each input embedded once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, ProcessorMixin

from fisao_pipeline.method.verifier_scores import cosine_scores
from fisao_pipeline.models.loading import load_pretrained
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.models.source import ModelSource


class Verifier:
    """A dual encoder (CLIP, SigLIP) that scores texts against images by cosine.

    Embeddings are float32, kept on the CPU per image id and per text for as long as the verifier lives, so that an
    image is embedded once whatever the number of its responses and a word once whatever the number of its mentions.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, batch_size: int = 64):
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.batch_size = batch_size
        self._images: dict[str, Tensor] = {}
        self._texts: dict[str, Tensor] = {}
        self.truncated_texts = 0

    @classmethod
    def load(cls, source: ModelSource) -> Verifier:
        """Load a dual encoder.

        Raises:
            ValueError: If the model has no image and text tower with a common space.
        """
        model, processor = load_pretrained(AutoModel, source)
        if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features"):
            raise ValueError(
                f"verifier {source.path_or_id!r} is a {type(model).__name__}: it has no text tower to score words "
                "with. Use a dual encoder such as CLIP or SigLIP"
            )
        return cls(model, processor)

    def score(self, image_ids: Sequence[str], texts: Sequence[str], open_image: ImageOpener) -> Float[Tensor, " m"]:
        """S of each (image, text) pair, cosines in [-1, 1]."""
        if not texts:
            return torch.zeros(0)
        self.embed_images(image_ids, open_image)
        self.embed_texts(texts)
        images = torch.stack([self._images[i] for i in image_ids])
        return cosine_scores(images, torch.stack([self._texts[t] for t in texts]))

    @torch.no_grad()
    def embed_images(self, image_ids: Iterable[str], open_image: ImageOpener) -> None:
        """Embed the images that were not embedded before."""
        for ids in self._batches(image_ids, self._images):
            images: list[Image.Image] = [open_image(i) for i in ids]
            inputs = self.processor(images=images, return_tensors="pt").to(self.model.device)
            pixels = inputs["pixel_values"].to(self.model.dtype)
            embedded = self.model.get_image_features(pixel_values=pixels).pooler_output
            self._images.update(zip(ids, embedded.float().cpu(), strict=True))

    @torch.no_grad()
    def embed_texts(self, texts: Iterable[str]) -> None:
        """Embed the texts that were not embedded before, cut to the text tower's context; counts what was cut."""
        tokenizer = self.processor.tokenizer
        limit = self.model.config.text_config.max_position_embeddings
        for batch in self._batches(texts, self._texts):
            encoded = tokenizer(batch, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            self.truncated_texts += sum(len(ids) > limit for ids in tokenizer(batch, verbose=False)["input_ids"])
            embedded = self.model.get_text_features(**encoded.to(self.model.device)).pooler_output
            self._texts.update(zip(batch, embedded.float().cpu(), strict=True))

    def _batches(self, keys: Iterable[str], known: dict[str, Tensor]) -> Iterable[list[str]]:
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        for start in range(0, len(missing), self.batch_size):
            yield missing[start : start + self.batch_size]
