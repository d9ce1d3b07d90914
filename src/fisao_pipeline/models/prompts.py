"""From (prompt, image) to what a vision-language model reads, with vision features computed once per image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

ImageOpener = Callable[[str], Image.Image]
# Prompts tokenised at once while they are counted.
_COUNTED_AT_ONCE = 1024


@dataclass(frozen=True)
class PromptBatch:
    """Encoded prompts, padded on the left.

    Attributes:
        input_ids: Token ids, [b, p].
        attention_mask: True on tokens, [b, p].
        image_features: Per row the projected features of its image, each [patches, d].
    """

    input_ids: Int[Tensor, "b p"]
    attention_mask: Bool[Tensor, "b p"]
    image_features: tuple[Tensor, ...]

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def rows(self, index: Sequence[int]) -> PromptBatch:
        """The batch of the given rows, in that order, without the columns that are padding in all of them."""
        rows = torch.as_tensor(list(index), device=self.input_ids.device)
        mask = self.attention_mask[rows]
        first = int(mask.any(dim=0).float().argmax())
        return PromptBatch(
            self.input_ids[rows][:, first:], mask[:, first:], tuple(self.image_features[i] for i in index)
        )

    def model_inputs(self) -> dict:
        """Keyword arguments for ``forward`` and ``generate``: the vision tower is not run again."""
        encoded = {"image": BaseModelOutputWithPooling(pooler_output=list(self.image_features))}
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask.long(),
            "mm_encoder_outputs": encoded,
        }


class FeatureCache:
    """Vision features by image id, the least recently used dropped beyond ``max_bytes``; never written to disk."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._bytes = 0
        self._features: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, image_id: str) -> Tensor | None:
        """The features of an image, or None."""
        if image_id in self._features:
            self._features.move_to_end(image_id)
        return self._features.get(image_id)

    def put(self, image_id: str, features: Tensor) -> None:
        """Keep the features of an image and drop the oldest until all fit."""
        if image_id not in self._features:
            self._bytes += features.nbytes
        self._features[image_id] = features
        while self._bytes > self.max_bytes and len(self._features) > 1:
            _, dropped = self._features.popitem(last=False)
            self._bytes -= dropped.nbytes


class PromptEncoder:
    """Chat template, tokens and vision features of one backbone; nothing is computed twice while the caches hold it."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, cache_bytes: int = 2 << 30):
        self.model = model
        self.processor = processor
        self.features = FeatureCache(cache_bytes)
        self._ids: dict[tuple[str, str], Tensor] = {}
        self._image_tokens: dict[tuple[int, int], int] = {}

    def __call__(self, prompts: Sequence[str], image_ids: Sequence[str], open_image: ImageOpener) -> PromptBatch:
        """Encode prompts about images.

        Args:
            prompts: Texts without image token.
            image_ids: One an image, the key of its features.
            open_image: Gives the RGB image of an id; called once for each image that is not in the cache.

        Raises:
            ValueError: If a prompt exceeds the model's context.
        """
        pairs = list(zip(image_ids, prompts, strict=True))
        # Held here until the batch is built: its own additions may push each other out of the cache.
        features = {i: self.features.get(i) for i in dict.fromkeys(image_ids)}
        missing = [p for p in dict.fromkeys(pairs) if p not in self._ids or features[p[0]] is None]
        if missing:
            features |= self._encode(missing, open_image)
        rows = [self._ids[pair] for pair in pairs]
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self.processor.tokenizer.pad_token_id)
        mask = torch.zeros((len(rows), width), dtype=torch.bool)
        for number, row in enumerate(rows):
            ids[number, width - len(row) :] = row
            mask[number, width - len(row) :] = True
        device = self.model.device
        return PromptBatch(ids.to(device), mask.to(device), tuple(features[i] for i in image_ids))

    def chat_text(self, prompt: str) -> str:
        """The prompt in the backbone's chat format, one image before it, up to where the answer starts."""
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        conversation = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)

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
            whole = self.processor(text=[self.chat_text("")], images=[Image.new("RGB", size)])["input_ids"][0]
            self._image_tokens[size] = len(whole) - self._text_tokens([""])[0]
        return self._image_tokens[size]

    @torch.no_grad()
    def _encode(self, pairs: list[tuple[str, str]], open_image: ImageOpener) -> dict[str, Tensor]:
        images = {image_id: open_image(image_id) for image_id in dict.fromkeys(image_id for image_id, _ in pairs)}
        encoded = self.processor(
            text=[self.chat_text(prompt) for _, prompt in pairs],
            images=[images[image_id] for image_id, _ in pairs],
            padding=True,
            return_tensors="pt",
        )
        for pair, ids, counts in zip(pairs, encoded["input_ids"], encoded["attention_mask"].bool(), strict=True):
            self._ids[pair] = self._checked(ids[counts], pair[1])
        first = {image_id: row for row, (image_id, _) in reversed(list(enumerate(pairs)))}
        pixels = encoded["pixel_values"][list(first.values())].to(self.model.device, self.model.dtype)
        projected = self.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
        fresh = dict(zip(first, projected, strict=True))
        for image_id, row in fresh.items():
            self.features.put(image_id, row)
        return fresh

    def _checked(self, ids: Tensor, prompt: str) -> Tensor:
        limit = self.context_tokens
        if limit is not None and len(ids) >= limit:
            raise ValueError(
                f"a prompt takes {len(ids)} tokens and the policy's context is {limit}: re-run response_sampling with "
                f"this backbone, which leaves such prompts out ({prompt[:60]!r}…)"
            )
        return ids
