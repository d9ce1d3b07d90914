"""InstructBLIP: a Q-Former reads the instruction beside the image; the language model is a whole model of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from transformers import Cache

from fisao_pipeline.models.backbones.generic import BackboneKind
from fisao_pipeline.models.feeding import to_device


class InstructBlip(BackboneKind):
    """InstructBLIP with a decoder-only language model, Vicuna for instance; its prompt format is the bare instruction.

    Prompts are read one by one: in a batch its processor pads between the image tokens and the text, which moves them
    apart. transformers' class encodes the image again in every forward pass without precomputed outputs, decoding
    steps included, so embeddings are put together here and given to the language model.

    Raises:
        ValueError: If the language model is an encoder-decoder, or the checkpoint is of before image tokens.
    """

    reads_prompt = True
    equal_images = True

    def check(self) -> None:
        """Refuse what cannot work; see the class."""
        config, name = self.model.config, self.model.name_or_path
        if not config.use_decoder_only_language_model:
            raise ValueError(
                f"{name!r} is an InstructBLIP around an encoder-decoder ({config.text_config.model_type}), whose "
                "answers do not continue the prompt; use one around a decoder, Salesforce/instructblip-vicuna-7b"
            )
        if config.image_token_index is None or self.processor.num_query_tokens is None:
            raise ValueError(
                f"{name!r} is an InstructBLIP checkpoint of before image tokens: config.json has no image_token_index "
                "or processor_config.json no num_query_tokens; take a newer revision"
            )

    def chat_text(self, prompt: str) -> str:
        """The bare instruction; the processor puts the image tokens before it."""
        return prompt

    def read(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        """What the processor makes; an instruction longer than the Q-Former's context is cut for the Q-Former only."""
        encoded = super().read(prompts, images)
        limit = self.model.config.qformer_config.max_position_embeddings
        for name in ("qformer_input_ids", "qformer_attention_mask"):
            rows = encoded[name]
            if rows.shape[1] > limit:
                encoded[name] = torch.cat([rows[:, : limit - 1], rows[:, -1:]], dim=1)
        return encoded

    def features(self, encoded: Mapping[str, Tensor], rows: Sequence[int]) -> list[Tensor]:
        """What the Q-Former passes on of an image under an instruction, [queries, d]."""
        device = self.model.device
        seen = self.model.get_image_features(
            pixel_values=to_device(encoded["pixel_values"], device).to(self.model.dtype),
            qformer_input_ids=to_device(encoded["qformer_input_ids"], device),
            qformer_attention_mask=to_device(encoded["qformer_attention_mask"], device),
            return_dict=True,
        )
        return [seen.pooler_output[0]]

    def hidden_states(self, inputs: dict[str, Any]) -> Float[Tensor, "n s d"]:
        """Last hidden states, those that the output layer reads."""
        decoder = self.model.language_model.base_model
        return decoder(**self._embedded(inputs), use_cache=False).last_hidden_state

    def prefill(self, inputs: dict[str, Any]) -> tuple[Float[Tensor, "n v"], Cache]:
        """Logits after the prompts, and the language model's key-value cache."""
        output = self.model.language_model(**self._embedded(inputs), use_cache=True, logits_to_keep=1)
        return output.logits[:, -1], output.past_key_values

    def step(
        self, tokens: Int[Tensor, " n"], attention_mask: Tensor, cache: Cache, positions: Tensor | None
    ) -> tuple[Float[Tensor, "n v"], Cache]:
        """Logits after one more token a row: the language model alone goes on."""
        output = self.model.language_model(
            input_ids=tokens[:, None], attention_mask=attention_mask, past_key_values=cache, use_cache=True
        )
        return output.logits[:, -1], output.past_key_values

    def _embedded(self, inputs: dict[str, Any]) -> dict[str, Any]:
        rest = dict(inputs)
        ids = rest.pop("input_ids")
        features = torch.cat(rest.pop("mm_encoder_outputs")["image"].pooler_output)
        embeds = self.model.language_model.get_input_embeddings()(ids)
        places = (ids == self.image_token_id)[..., None]
        return {"inputs_embeds": embeds.masked_scatter(places, features.to(embeds.dtype)), **rest}
