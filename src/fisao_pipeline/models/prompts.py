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

    def repeat(self, times: int) -> PromptBatch:
        """Every row ``times`` times, copies adjacent."""
        return self.rows([row for row in range(len(self)) for _ in range(times)])

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
    """Chat template, tokens and vision features of one backbone."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, cache_bytes: int = 2 << 30):
        self.model = model
        self.processor = processor
        self.cache = FeatureCache(cache_bytes)

    def __call__(self, prompts: Sequence[str], image_ids: Sequence[str], open_image: ImageOpener) -> PromptBatch:
        """Encode prompts about images.

        Args:
            prompts: Texts without image token.
            image_ids: One an image, the key of its features.
            open_image: Gives the RGB image of an id; called once per image and batch.

        Raises:
            ValueError: If a prompt exceeds the model's context.
        """
        images = {image_id: open_image(image_id) for image_id in dict.fromkeys(image_ids)}
        encoded = self.processor(
            text=[self.chat_text(prompt) for prompt in prompts],
            images=[images[image_id] for image_id in image_ids],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.model.device)
        self._check_length(encoded["input_ids"].shape[1], prompts)
        features = self._features(image_ids, encoded["pixel_values"])
        return PromptBatch(encoded["input_ids"], encoded["attention_mask"].bool(), features)

    def chat_text(self, prompt: str) -> str:
        """The prompt in the backbone's chat format, one image before it, up to where the answer starts."""
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        conversation = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)

    def _check_length(self, tokens: int, prompts: Sequence[str]) -> None:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and tokens >= limit:
            longest = max(prompts, key=len)
            raise ValueError(
                f"a prompt takes {tokens} tokens and the policy's context is {limit}: shorten it or drop it from the "
                f"prompts file ({longest[:60]!r}…)"
            )

    @torch.no_grad()
    def _features(self, image_ids: Sequence[str], pixel_values: Tensor) -> tuple[Tensor, ...]:
        missing = [i for i, image_id in enumerate(image_ids) if self.cache.get(image_id) is None]
        missing = list({image_ids[i]: i for i in missing}.values())
        fresh: dict[str, Tensor] = {}
        if missing:
            pixels = pixel_values[missing].to(self.model.dtype)
            projected = self.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
            fresh = {image_ids[i]: row for i, row in zip(missing, projected, strict=True)}
        # Looked up before anything is added: what this batch needs must survive its own additions.
        rows = tuple(fresh[i] if i in fresh else self.cache.get(i) for i in image_ids)
        for image_id, row in fresh.items():
            self.cache.put(image_id, row)
        return rows
