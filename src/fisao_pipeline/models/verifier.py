"""The verifier: what scores words against images. One protocol, an implementation per kind of model, one factory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    MODEL_MAPPING,
    AutoModel,
    Blip2ForImageTextRetrieval,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from fisao_pipeline.method.verifier_scores import cosine_scores, max_cosine_scores
from fisao_pipeline.models.embedded_texts import EmbeddedTexts, TensorStore, embedded_texts
from fisao_pipeline.models.feeding import open_named, prefetched, reading_threads, to_device
from fisao_pipeline.models.halving import HalvingSize
from fisao_pipeline.models.loading import load_pretrained, read_config
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.models.source import ModelSource, find_model

SUPPORTED = (
    "a dual encoder such as CLIP or SigLIP, with its text tower, or a BLIP-2 with image and text projections "
    "(Blip2ForImageTextRetrieval)"
)
# They were trained on lower-cased texts padded to the full context, and their text tower reads the padding.
_SIGLIP = {"siglip", "siglip2"}
_BLIP2 = "blip-2"
_PAIRS_AT_ONCE = 4096
# What a thread reads at a time: whole pictures are in memory only while they are made small.
_IMAGES_A_THREAD = 8


class Verifier(Protocol):
    """What the reward needs of a verifier.

    Attributes:
        truncated_texts: How many different texts were longer than the verifier's context so far, and were cut.
    """

    truncated_texts: int

    def score(
        self, image_ids: Sequence[str], texts: Sequence[str], open_image: ImageOpener, whole_responses: bool = False
    ) -> Float[Tensor, " m"]:
        """S of each (image, text) pair, cosines in [-1, 1].

        Args:
            image_ids: An image for each text.
            texts: Words that are given again and again, or whole responses.
            open_image: Gives the RGB picture of an id.
            whole_responses: Whether the texts are responses, which hardly come twice.
        """


def load_verifier(source: ModelSource, texts: TensorStore | None = None) -> EmbeddingVerifier:
    """Load the verifier that a model's configuration asks for; nothing is loaded before it is known to be one.

    Args:
        source: The model.
        texts: Where the embeddings of texts are kept from process to process; None embeds them in each.

    Raises:
        ModelNotFoundError: If the source is not on this machine and may not be downloaded.
        ValueError: If the model cannot score a text against an image, or wants to run code of its own; the message says
            what can be used.
    """
    find_model(source.path_or_id, source.revision, source.allow_download)
    verifier = _load(source)
    if texts is not None:
        model = verifier.model
        revision = getattr(model.config, "_commit_hash", None)
        verifier.memory = embedded_texts(texts, source, revision, model.device)
    return verifier


def check_scores(config: PreTrainedConfig, name: str) -> None:
    """Refuse a kind of model that cannot score a text against an image.

    Raises:
        ValueError: With what can be used.
    """
    if config.model_type == _BLIP2:
        # Loaded as one, a captioning BLIP-2 would get random projections.
        if Blip2ForImageTextRetrieval.__name__ not in (config.architectures or []):
            raise ValueError(
                f"verifier {name!r} is a BLIP-2 ({', '.join(config.architectures or ['?'])}) without "
                f"projections into a common space. Use {SUPPORTED}"
            )
        return
    model_class = MODEL_MAPPING.get(type(config), None)
    kind = model_class.__name__ if isinstance(model_class, type) else type(config).__name__
    if not (hasattr(model_class, "get_text_features") and hasattr(model_class, "get_image_features")):
        raise ValueError(f"verifier {name!r} is a {kind}: it has no text tower to score words with. Use {SUPPORTED}")


def _load(source: ModelSource) -> EmbeddingVerifier:
    config = read_config(source)
    check_scores(config, source.path_or_id)
    if config.model_type == _BLIP2:
        return Blip2Verifier(*load_pretrained(Blip2ForImageTextRetrieval, source))
    return DualEncoderVerifier(*load_pretrained(AutoModel, source))


class EmbeddingVerifier(ABC):
    """Embeds each image id and each word once, for as long as the verifier lives, and scores pairs of embeddings.

    Embeddings are float32 and kept on the CPU, so that an image is embedded once whatever the number of its responses
    and a word once whatever the number of its mentions. Whole responses are embedded in batches and not kept.

    Attributes:
        memory: Texts that earlier processes have embedded, and where this one keeps its own; None keeps none.
    """

    context_tokens: int
    lower_case = False
    padding: bool | str = True

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, batch_size: int = 64):
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        effect = "Scores are the same but for rounding."
        self.batch = HalvingSize(batch_size, "the verifier's batch", effect, "Load verifier in bfloat16.")
        self.threads = reading_threads(model.device)
        self.memory: EmbeddedTexts | None = None
        self._images: dict[str, Tensor] = {}
        self._texts: dict[str, Tensor] = {}
        self._cut: set[str] = set()
        # What is in the memory and was not asked for yet; None before it was looked at.
        self._kept: tuple[dict[str, Tensor], set[str]] | None = None

    @property
    def truncated_texts(self) -> int:
        """How many different texts were longer than the context so far, and were cut."""
        return len(self._cut)

    def tensors(self) -> dict[str, Tensor]:
        """The images' embeddings so far, in the order of ``values``.

        What is embedded later goes through the tower without these, and a batch of others would round otherwise: a run
        that is to end in the same bits has to have them back. A word has the same bits whenever it is embedded, and
        those of a whole response hang on the responses that are scored with it.
        """
        return {"images": torch.stack(list(self._images.values()))} if self._images else {}

    def values(self) -> dict[str, Any]:
        """Whose embeddings they are, and which texts were cut."""
        return {"images": list(self._images), "cut_texts": sorted(self._cut)}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Know the images that ``tensors`` and ``values`` gave, and no other."""
        self._images = dict(zip(values["images"], tensors.get("images", ()), strict=True))
        self._cut = set(values["cut_texts"])

    @property
    def batch_size(self) -> int:
        """Images embedded at once."""
        return self.batch.size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self.batch.size = size

    def score(
        self, image_ids: Sequence[str], texts: Sequence[str], open_image: ImageOpener, whole_responses: bool = False
    ) -> Float[Tensor, " m"]:
        """S of each (image, text) pair, cosines in [-1, 1]; see ``Verifier.score``."""
        if not texts:
            return torch.zeros(0)
        self.embed_images(image_ids, open_image)
        if whole_responses:
            embedded = self._embed_responses(texts)
        else:
            self.embed_texts(texts)
            embedded = self._texts
        scores = []
        # In parts, as an image's embeddings are repeated for each of its mentions.
        for start in range(0, len(texts), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            images = torch.stack([self._images[i] for i in image_ids[part]])
            scores.append(self._cosines(images, torch.stack([embedded[t] for t in texts[part]])))
        return torch.cat(scores)

    @torch.no_grad()
    def embed_images(self, image_ids: Iterable[str], open_image: ImageOpener) -> None:
        """Embed the images that were not embedded before."""
        wanted = list(image_ids)

        def read(ids: list[str]) -> dict[str, Tensor]:
            images = [open_named(open_image, image_id) for image_id in ids]
            return dict(self.processor(images=images, return_tensors="pt"))

        def embed(size: int) -> None:
            # Without threads a batch is read at once, which takes less time on one core.
            part = min(size, _IMAGES_A_THREAD) if self.threads else size
            batches = list(self._batches(wanted, self._images, size))
            parts = [ids[start : start + part] for ids in batches for start in range(0, len(ids), part)]
            with closing(prefetched(read, parts, self.threads)) as made:
                for ids in batches:
                    few = list(islice(made, -(-len(ids) // part)))
                    inputs = {name: torch.cat([one[name] for one in few]) for name in few[0]} if few[1:] else few[0]
                    inputs = {name: to_device(values, self.model.device) for name, values in inputs.items()}
                    inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
                    self._images.update(zip(ids, self._image_embeddings(inputs).float().cpu(), strict=True))

        self.batch.run(embed)

    @torch.no_grad()
    def embed_texts(self, texts: Iterable[str]) -> None:
        """Embed the texts that were not embedded before, cut to the text tower's context; notes which were cut.

        Each alone: in a batch, what a text rounds to would hang on the others and so on what was known already. It is
        done once for each text, where there is a memory once and for all.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if not missing:
            return
        if self._kept is None:
            self._kept = self.memory.read(self._embed_text) if self.memory is not None else ({}, set())
        kept, cut = self._kept
        new = [text for text in missing if text not in kept]
        self._texts |= {text: kept[text] for text in missing if text in kept}
        self._cut |= cut.intersection(missing)
        if new:
            made = {text: self._embed_text(text) for text in new}
            cut = self._too_long(self._token_counts(new))
            self._texts |= made
            self._cut |= cut
            if self.memory is not None:
                self.memory.add(made, cut)

    @torch.no_grad()
    def _embed_responses(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """Embeddings in batches of alike lengths: what one rounds to hangs on the texts of this call alone."""
        counts = self._token_counts(list(dict.fromkeys(texts)))
        self._cut |= self._too_long(counts)
        by_length = sorted(counts, key=lambda text: counts[text])

        def embed(size: int) -> dict[str, Tensor]:
            batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]
            return {text: row for batch in batches for text, row in zip(batch, self._embed_batch(batch), strict=True)}

        return self.batch.run(embed)

    def _given(self, text: str) -> str:
        return text.lower() if self.lower_case else text

    def _token_counts(self, texts: Sequence[str]) -> dict[str, int]:
        ids = self.processor.tokenizer([self._given(text) for text in texts], verbose=False)["input_ids"]
        return {text: len(row) for text, row in zip(texts, ids, strict=True)}

    def _too_long(self, counts: Mapping[str, int]) -> set[str]:
        return {text for text, count in counts.items() if count > self.context_tokens}

    def _embed_text(self, text: str) -> Float[Tensor, " d"]:
        return self._embed_batch([text])[0]

    @torch.no_grad()
    def _embed_batch(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        limits = {"truncation": True, "max_length": self.context_tokens}
        given = [self._given(text) for text in texts]
        encoded = self.processor.tokenizer(given, padding=self.padding, return_tensors="pt", **limits)
        return self._text_embeddings(encoded.to(self.model.device)).float().cpu()

    @staticmethod
    def _batches(keys: Iterable[str], known: dict[str, Tensor], size: int) -> Iterable[list[str]]:
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        for start in range(0, len(missing), size):
            yield missing[start : start + size]

    @abstractmethod
    def _image_embeddings(self, inputs: dict[str, Tensor]) -> Tensor:
        """Of a batch that the image processor made; one row an image."""

    @abstractmethod
    def _text_embeddings(self, encoded: Any) -> Tensor:
        """Of a batch that the tokenizer made; one row a text."""

    @abstractmethod
    def _cosines(self, images: Tensor, texts: Tensor) -> Tensor:
        """S of rows of both."""


class DualEncoderVerifier(EmbeddingVerifier):
    """A dual encoder (CLIP, SigLIP, SigLIP 2): the cosine of its two towers' embeddings.

    SigLIP gets what it was trained on: lower-cased texts, padded to the whole context, no mask over the padding.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, batch_size: int = 64):
        super().__init__(model, processor, batch_size)
        self.context_tokens = model.config.text_config.max_position_embeddings
        self._siglip = model.config.model_type in _SIGLIP
        if self._siglip:
            self.lower_case, self.padding = True, "max_length"

    def _image_embeddings(self, inputs: dict[str, Tensor]) -> Tensor:
        # All of it: SigLIP 2 with native resolutions needs the shapes and a mask beside the pixels.
        return self.model.get_image_features(**inputs).pooler_output

    def _text_embeddings(self, encoded: Any) -> Tensor:
        inputs = {"input_ids": encoded["input_ids"]} if self._siglip else encoded
        return self.model.get_text_features(**inputs).pooler_output

    def _cosines(self, images: Tensor, texts: Tensor) -> Float[Tensor, " m"]:
        return cosine_scores(images, texts)


class Blip2Verifier(EmbeddingVerifier):
    """BLIP-2's image tower and Q-Former (InstructBLIP's ViT-g, whose own checkpoint has no text tower to score words).

    An image has one embedding per query, a text one; S is the best cosine over the queries, which is the model's own
    image-text contrastive output.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, batch_size: int = 64):
        super().__init__(model, processor, batch_size)
        self.context_tokens = model.config.qformer_config.max_position_embeddings

    def _image_embeddings(self, inputs: dict[str, Tensor]) -> Tensor:
        seen = self.model.vision_model(pixel_values=inputs["pixel_values"]).last_hidden_state
        queries = self.model.query_tokens.expand(len(seen), -1, -1)
        mask = torch.ones(seen.shape[:-1], dtype=torch.long, device=seen.device)
        found = self.model.qformer(query_embeds=queries, encoder_hidden_states=seen, encoder_attention_mask=mask)
        projection = self.model.vision_projection
        return projection(found.last_hidden_state.to(projection.weight.dtype))

    def _text_embeddings(self, encoded: Any) -> Tensor:
        words = self.model.embeddings(input_ids=encoded["input_ids"])
        found = self.model.qformer(query_embeds=words, query_length=0, attention_mask=encoded["attention_mask"])
        projection = self.model.text_projection
        return projection(found.last_hidden_state[:, 0].to(projection.weight.dtype))

    def _cosines(self, images: Tensor, texts: Tensor) -> Float[Tensor, " m"]:
        return max_cosine_scores(images, texts)
