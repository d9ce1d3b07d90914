"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: positions along three axes, which every pass is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fisao_pipeline.models.backbones.generic import BackboneKind

if TYPE_CHECKING:
    from fisao_pipeline.models.prompts import PromptBatch


class QwenVl(BackboneKind):
    """Qwen2-VL and Qwen2.5-VL.

    Left to itself the model keeps the offset between a token's place and its position from one call to the next, for a
    batch that has since shrunk or been another one. Here a prompt's positions are computed once, with its tokens, and
    go with it.
    """

    unpacked = "positions count along three axes"

    def positions(self, ids: Int[Tensor, " p"], encoded: Mapping[str, Tensor]) -> Int[Tensor, "3 p"]:
        """Temporal, vertical and horizontal position of each token of a prompt."""
        positions, _ = self.model.base_model.get_rope_index(
            input_ids=ids[None],
            mm_token_type_ids=(ids == self.image_token_id).int()[None],
            image_grid_thw=encoded["image_grid_thw"],
            attention_mask=torch.ones_like(ids)[None],
        )
        return positions[:, 0]

    def inputs(
        self, batch: PromptBatch, completion_ids: Tensor | None = None, completion_mask: Tensor | None = None
    ) -> dict[str, Any]:
        """Arguments of the forward pass, positions [3, b, s] included; a completion goes on along all axes at once."""
        inputs = super().inputs(batch, completion_ids, completion_mask)
        positions = batch.position_ids
        if completion_ids is not None:
            steps = torch.arange(completion_ids.shape[1], device=positions.device)
            after = (self._after(positions)[:, None] + steps).expand(positions.shape[0], -1, -1)
            positions = torch.cat([positions, after], dim=2)
        return {**inputs, "position_ids": positions}

    def next_positions(self, inputs: dict[str, Any]) -> Int[Tensor, " n"]:
        """Position of each prompt's first completion token, along all axes."""
        return self._after(inputs["position_ids"])

    def step(
        self, tokens: Int[Tensor, " n"], attention_mask: Tensor, cache: Cache, positions: Tensor | None
    ) -> tuple[Float[Tensor, "n v"], Cache]:
        """Logits after one more token a row, at the positions it is told."""
        output = self.model(
            input_ids=tokens[:, None],
            attention_mask=attention_mask,
            position_ids=positions[None, :, None].expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
        )
        return output.logits[:, -1], output.past_key_values

    @staticmethod
    def _after(positions: Int[Tensor, "3 b p"]) -> Int[Tensor, " b"]:
        # Padding has position 0, and a prompt ends with text, which lies beyond its image along every axis.
        return positions.amax(dim=(0, 2)) + 1


class Qwen3Vl(QwenVl):
    """Qwen3-VL: features of lower layers of the vision tower are added inside the language tower.

    A row's features are [1 + levels, tokens, d]: what replaces the image tokens, then what is added.
    """

    def features(self, encoded: Mapping[str, Tensor], rows: Sequence[int]) -> list[Tensor]:
        """Vision features of one image, [1 + levels, tokens, d]."""
        seen = self._see(encoded)
        return [torch.stack([torch.cat(list(level)) for level in (seen.pooler_output, *seen.deepstack_features)])]

    def vision_outputs(self, features: Sequence[Tensor]) -> BaseModelOutputWithPooling:
        """Features of a batch in the form in which the model takes them."""
        outputs = super().vision_outputs([levels[0] for levels in features])
        outputs.deepstack_features = [list(level) for level in zip(*(levels[1:] for levels in features), strict=True)]
        return outputs
