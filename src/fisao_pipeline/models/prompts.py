"""From (prompt, image) to what a vision-language model reads, with vision features computed once per image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fisao_pipeline.models.backbones.choice import backbone_kind
from fisao_pipeline.models.feeding import open_named, prefetched, reading_threads
from fisao_pipeline.params.base import MAX_ASPECT_RATIO

ImageOpener = Callable[[str], Image.Image]
# Prompts tokenised at once while they are counted.
_COUNTED_AT_ONCE = 1024


@dataclass(frozen=True)
class PromptBatch:
    """Encoded prompts, padded on the left.

    Attributes:
        input_ids: Token ids, [b, p].
        attention_mask: True on tokens, [b, p].
        image_features: Per row the projected features of its image, each [patches, d]; more dimensions where the
            kind of model adds features at several levels.
        position_ids: Positions along several axes, [axes, b, p]; None where they are counted along the text.
    """

    input_ids: Int[Tensor, "b p"]
    attention_mask: Bool[Tensor, "b p"]
    image_features: tuple[Tensor, ...]
    position_ids: Int[Tensor, "axes b p"] | None = None

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def rows(self, index: Sequence[int]) -> PromptBatch:
        """The batch of the given rows, in that order, without the columns that are padding in all of them."""
        rows = torch.as_tensor(list(index), device=self.input_ids.device)
        mask = self.attention_mask[rows]
        first = int(mask.any(dim=0).float().argmax())
        return PromptBatch(
            self.input_ids[rows][:, first:],
            mask[:, first:],
            tuple(self.image_features[i] for i in index),
            self.position_ids[:, rows, first:] if self.position_ids is not None else None,
        )

    def model_inputs(self) -> dict:
        """Arguments of LLaVA's ``forward`` and ``generate``; ``BackboneKind.inputs`` has those of any kind."""
        encoded = {"image": BaseModelOutputWithPooling(pooler_output=list(self.image_features))}
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask.long(),
            "mm_encoder_outputs": encoded,
        }


class FeatureCache:
    """Vision features by image, the least recently used dropped beyond ``max_bytes``; never written to disk.

    The key is the image's id, or (id, prompt) for a model whose features depend on the prompt.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._bytes = 0
        self._features: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable) -> Tensor | None:
        """The features of an image, or None."""
        if key in self._features:
            self._features.move_to_end(key)
        return self._features.get(key)

    def put(self, key: Hashable, features: Tensor) -> None:
        """Keep the features of an image and drop the oldest until all fit."""
        if key not in self._features:
            self._bytes += features.nbytes
        self._features[key] = features
        while self._bytes > self.max_bytes and len(self._features) > 1:
            _, dropped = self._features.popitem(last=False)
            self._bytes -= dropped.nbytes


class PromptEncoder:
    """Chat template, tokens and vision features of one backbone; nothing is computed twice while the caches hold it."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, cache_bytes: int = 2 << 30):
        self.model = model
        self.processor = processor
        self.kind = backbone_kind(model, processor)
        self.features = FeatureCache(cache_bytes)
        self.threads = reading_threads(model.device)
        self._ids: dict[tuple[str, str], Tensor] = {}
        self._positions: dict[tuple[str, str], Tensor | None] = {}
        self._image_tokens: dict[tuple[int, int], int] = {}

    def __call__(self, prompts: Sequence[str], image_ids: Sequence[str], open_image: ImageOpener) -> PromptBatch:
        """Encode prompts about images.

        Args:
            prompts: Texts without image token.
            image_ids: One an image, the key of its features.
            open_image: Gives the RGB image of an id; called once for each image that is not in the cache.

        Raises:
            ValueError: If a prompt exceeds the model's context, an image is too narrow a strip, or the chat template
                does not name the image.
        """
        pairs = list(zip(image_ids, prompts, strict=True))
        keys = [self._key(pair) for pair in pairs]
        # Held here until the batch is built: its own additions may push each other out of the cache.
        features = {key: self.features.get(key) for key in dict.fromkeys(keys)}
        missing = [p for p in dict.fromkeys(pairs) if p not in self._ids or features[self._key(p)] is None]
        if missing:
            # A batch through the tower at once gives the same rounding whether some of it was known or not.
            known = {} if self.kind.batches_images else {key: f for key, f in features.items() if f is not None}
            features |= self._encode(missing, open_image, known)
        rows = [self._ids[pair] for pair in pairs]
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self.kind.pad_id)
        mask = torch.zeros((len(rows), width), dtype=torch.bool)
        for number, row in enumerate(rows):
            ids[number, width - len(row) :] = row
            mask[number, width - len(row) :] = True
        device = self.model.device
        positions = self._padded_positions(pairs, width)
        return PromptBatch(ids.to(device), mask.to(device), tuple(features[key] for key in keys), positions)

    def chat_text(self, prompt: str) -> str:
        """The prompt in the backbone's chat format, one image before it, up to where the answer starts."""
        return self.kind.chat_text(prompt)

    @property
    def context_tokens(self) -> int | None:
        """Tokens that the policy can read and write together; None where its configuration names no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def count_tokens(self, prompts: Sequence[str], image_sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Length of each encoded prompt, its image's tokens included, without opening an image.

        Each distinct text is tokenised once. What an image adds follows from its size alone, so the processor is run
        once for each distinct size, on a blank picture: on one or a few where all pictures are alike, and correctly
        for a processor that spends more tokens on larger pictures.

        Args:
            prompts: Texts without image token.
            image_sizes: Width and height in pixels of each prompt's image.

        Returns:
            Tokens, one number a prompt.

        Raises:
            ValueError: If an image is too narrow a strip.
        """
        texts = list(dict.fromkeys(prompts))
        lengths: list[int] = []
        for start in range(0, len(texts), _COUNTED_AT_ONCE):
            lengths += self._text_tokens(texts[start : start + _COUNTED_AT_ONCE])
        length_of = dict(zip(texts, lengths, strict=True))
        pairs = zip(prompts, image_sizes, strict=True)
        return [length_of[prompt] + self._tokens_of_image(size) for prompt, size in pairs]

    def _text_tokens(self, prompts: list[str]) -> list[int]:
        texts = [self.chat_text(prompt) for prompt in prompts]
        # Not verbose: a text longer than the tokenizer's own limit is what is looked for, not worth a warning each.
        return [len(ids) for ids in self.processor.tokenizer(texts, verbose=False)["input_ids"]]

    def _tokens_of_image(self, size: tuple[int, int]) -> int:
        """Tokens that an image of this size adds to those of the prompt's text."""
        if size not in self._image_tokens:
            check_aspect_ratio(size, "an image")
            self._image_tokens[size] = self.kind.count_tokens(Image.new("RGB", size)) - self._text_tokens([""])[0]
        return self._image_tokens[size]

    def _key(self, pair: tuple[str, str]) -> Hashable:
        """What the features of a pair of image id and prompt are kept under."""
        return pair if self.kind.reads_prompt else pair[0]

    def _padded_positions(self, pairs: list[tuple[str, str]], width: int) -> Tensor | None:
        rows = [self._positions[pair] for pair in pairs]
        padded = [torch.nn.functional.pad(row, (width - row.shape[1], 0)) for row in rows if row is not None]
        return torch.stack(padded, dim=1).to(self.model.device) if padded else None

    @torch.no_grad()
    def _encode(
        self, pairs: list[tuple[str, str]], open_image: ImageOpener, known: dict[Hashable, Tensor]
    ) -> dict[Hashable, Tensor]:
        ids = list(dict.fromkeys(image_id for image_id, _ in pairs))
        images = dict(zip(ids, prefetched(partial(open_named, open_image), ids, self.threads), strict=True))
        for image_id, image in images.items():
            check_aspect_ratio(image.size, f"image {image_id!r}")

        def read(part: list[tuple[str, str]]) -> Mapping[str, Tensor]:
            return self.kind.read([prompt for _, prompt in part], [images[image_id] for image_id, _ in part])

        fresh: dict[Hashable, Tensor] = {}
        parts = [pairs] if self.kind.batches_images else [[pair] for pair in pairs]
        # One thread: tokenizers are changed by each call, and must not be called by two at once.
        with closing(prefetched(read, parts, min(self.threads, 1))) as made:
            for part, encoded in zip(parts, made, strict=True):
                fresh |= self._encode_part(part, encoded, known | fresh)
        for key, row in fresh.items():
            self.features.put(key, row)
        return fresh

    def _encode_part(
        self, pairs: list[tuple[str, str]], encoded: Mapping[str, Tensor], done: dict[Hashable, Tensor]
    ) -> dict[Hashable, Tensor]:
        """Keep the tokens of pairs, which the processor has read; the features of their images that are not done."""
        for pair, ids, counts in zip(pairs, encoded["input_ids"], encoded["attention_mask"].bool(), strict=True):
            self._ids[pair] = self._checked(ids[counts], pair[1])
            self._positions[pair] = self.kind.positions(self._ids[pair], encoded)
        first = {self._key(pair): row for row, pair in reversed(list(enumerate(pairs)))}
        new = {key: row for key, row in first.items() if key not in done}
        seen = self.kind.features(encoded, list(new.values())) if new else []
        for (key, row), features in zip(new.items(), seen, strict=True):
            self._check_image_tokens(self._ids[pairs[row]], features, key)
        return dict(zip(new, seen, strict=True))

    def _check_image_tokens(self, ids: Tensor, features: Tensor, key: Hashable) -> None:
        found, needed = int((ids == self.kind.image_token_id).sum()), self.kind.tokens_of(features)
        if found != needed:
            raise ValueError(
                f"the prompt about {key!r} has {found} image tokens and its image {needed} features: the chat template "
                "does not name the image, or the processor is of another model"
            )

    def _checked(self, ids: Tensor, prompt: str) -> Tensor:
        limit = self.context_tokens
        if limit is not None and len(ids) >= limit:
            raise ValueError(
                f"a prompt takes {len(ids)} tokens and the policy's context is {limit}: re-run response_sampling with "
                f"this backbone, which leaves such prompts out ({prompt[:60]!r}…)"
            )
        return ids


def check_aspect_ratio(size: tuple[int, int], name: str) -> None:
    """Refuse an image that is too narrow a strip.

    Raises:
        ValueError: If its longer side is more than ``MAX_ASPECT_RATIO`` times its shorter one.
    """
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise ValueError(
            f"{name} is {size[0]} x {size[1]} pixels: the longer side may be {MAX_ASPECT_RATIO} times the shorter one "
            "at most; crop it or take it out of the image folder"
        )
