"""PaliGemma and Gemma 3: tokens of the prompt that see each other in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from fisao_pipeline.models.backbones.generic import BackboneKind

if TYPE_CHECKING:
    from fisao_pipeline.models.prompts import PromptBatch


class PaliGemma(BackboneKind):
    """PaliGemma and PaliGemma 2: the whole prompt sees itself in both directions, the completion looks back only.

    Its prompt format is the bare text, which the processor ends with a line break.
    """

    equal_images = True
    lists_features = False
    unpacked = "the tokens of the prompt see each other in both directions"

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        super().__init__(model, processor)
        self.logit_cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

    def check(self) -> None:
        """Nothing is refused: the format is this kind's own."""

    def chat_text(self, prompt: str) -> str:
        """The image's token and the bare text."""
        return f"<image>{prompt}"

    def inputs(
        self, batch: PromptBatch, completion_ids: Tensor | None = None, completion_mask: Tensor | None = None
    ) -> dict[str, Any]:
        """Arguments of the forward pass; ``token_type_ids`` are 0 on the prompt and 1 on the completion."""
        inputs = super().inputs(batch, completion_ids, completion_mask)
        types = torch.zeros_like(inputs["input_ids"])
        types[:, batch.input_ids.shape[1] :] = 1
        return {**inputs, "token_type_ids": types}


class Gemma3(BackboneKind):
    """Gemma 3: the tokens of an image see each other in both directions."""

    equal_images = True
    lists_features = False
    unpacked = "the tokens of an image see each other in both directions"

    def inputs(
        self, batch: PromptBatch, completion_ids: Tensor | None = None, completion_mask: Tensor | None = None
    ) -> dict[str, Any]:
        """Arguments of the forward pass; ``token_type_ids`` are 1 on tokens of an image."""
        inputs = super().inputs(batch, completion_ids, completion_mask)
        return {**inputs, "token_type_ids": (inputs["input_ids"] == self.image_token_id).long()}
