"""What most vision-language models of transformers share: images as tokens of the prompt, features precomputed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from transformers import Cache, PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fisao_pipeline.models.feeding import to_device

if TYPE_CHECKING:
    from fisao_pipeline.models.prompts import PromptBatch

# What an image processor makes, under the names by which `get_image_features` takes it.
_VISION_INPUTS = ("pixel_values", "pixel_attention_mask", "image_sizes", "image_grid_thw", "batch_num_images")
_PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")


class BackboneKind:
    """How one kind of model is prompted, sees and decodes; this one is right for most.

    Rows are prompts. A row's vision features are one tensor, whatever the kind computes from its image.

    Attributes:
        reads_prompt: Whether an image's features depend on the prompt too.
        batches_images: Whether every image becomes one picture of one shape, so that a batch goes through the vision
            tower at once; otherwise images are seen one by one, and no padding between them exists.
        equal_images: Whether every image takes as many tokens of the prompt, whatever its size.
        lists_features: Whether the model takes the features of a batch as a list; otherwise as one tensor.
        unpacked: Why completions of this kind are never packed behind one copy of their prompt; None where they are as
            soon as attention allows it.
        logit_cap: The model's logits are cap · tanh(x / cap) of what the output layer gives; None for no cap.
    """

    reads_prompt = False
    batches_images = False
    equal_images = False
    lists_features = True
    unpacked: str | None = None
    logit_cap: float | None = None

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        self.model = model
        self.processor = processor
        self.image_token_id: int = model.config.image_token_id
        self.check()
        self._choose_padding()

    # --- what is refused --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: If the processor has no chat template and this kind no format of its own.
        """
        if getattr(self.processor, "chat_template", None) is None and self.processor.tokenizer.chat_template is None:
            raise ValueError(
                f"the processor of {self.model.name_or_path!r} ({self.model.config.model_type}) has no chat template, "
                "and this kind of model has no prompt format of its own here: put the checkpoint's "
                "chat_template.jinja (or chat_template.json) into its folder"
            )

    def _choose_padding(self) -> None:
        """Pad with the end token where there is no padding token, or where it is a token that stands for an image."""
        tokenizer = self.processor.tokenizer
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id in self._placeholder_ids():
            if tokenizer.eos_token is None:
                raise ValueError(
                    f"the tokenizer of {self.model.name_or_path!r} pads with {tokenizer.pad_token!r}, which stands for "
                    "an image or for nothing, and has no end token to pad with instead"
                )
            tokenizer.pad_token = tokenizer.eos_token

    # --- tokens -----------------------------------------------------------------------------------------------------

    def _placeholder_ids(self) -> set[int]:
        named = (getattr(self.model.config, name, None) for name in _PLACEHOLDERS)
        return {token for token in named if isinstance(token, int)}

    @property
    def pad_id(self) -> int:
        """What fills up prompts and completions; never a token that stands for an image."""
        return self.processor.tokenizer.pad_token_id

    @property
    def suppressed_ids(self) -> Int[Tensor, " s"]:
        """Tokens that stand for an image or a video, never sampled and never scored: a sampled one stands for none."""
        known = self.model.get_output_embeddings().weight.shape[0]
        return torch.tensor(sorted(i for i in self._placeholder_ids() if i < known), device=self.model.device)

    @property
    def eos_ids(self) -> Int[Tensor, " e"]:
        """Tokens that end a completion: the tokenizer's, and those of the generation configuration."""
        configured = self.model.generation_config.eos_token_id if self.model.generation_config else None
        more = configured if isinstance(configured, list) else [configured]
        ids = {i for i in (self.processor.tokenizer.eos_token_id, *more) if i is not None}
        return torch.tensor(sorted(ids), device=self.model.device)

    # --- prompts ----------------------------------------------------------------------------------------------------

    def chat_text(self, prompt: str) -> str:
        """The prompt in the model's chat format, one image before it, up to where the answer starts."""
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        conversation = [{"role": "user", "content": content}]
        own = getattr(self.processor, "chat_template", None) is not None
        return self.processor.apply_chat_template(
            conversation,
            chat_template=None if own else self.processor.tokenizer.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )

    def read(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        """What the processor makes of prompts, each with its image: ids, a mask over them, pixels and their layout."""
        return self.processor(
            text=[self.chat_text(prompt) for prompt in prompts],
            images=list(images),
            padding=True,
            return_tensors="pt",
        )

    def count_tokens(self, image: Image.Image) -> int:
        """Length of an empty prompt about an image, its image tokens included."""
        whole = self.processor(text=[self.chat_text("")], images=[image])
        return len(whole["input_ids"][0])

    def positions(self, ids: Int[Tensor, " p"], encoded: Mapping[str, Tensor]) -> Int[Tensor, "axes p"] | None:
        """Positions of a prompt's tokens along several axes; None where they are counted along the one of the text."""
        return None

    # --- images -----------------------------------------------------------------------------------------------------

    def features(self, encoded: Mapping[str, Tensor], rows: Sequence[int]) -> list[Tensor]:
        """Vision features of the images of rows.

        Args:
            encoded: From ``read``; of one prompt unless ``batches_images``.
            rows: Rows of ``encoded``.

        Returns:
            One tensor a row, [tokens, d].
        """
        pooled = self._see(encoded).pooler_output
        return [torch.cat([part.flatten(0, -2) for part in pooled])]

    def _see(self, encoded: Mapping[str, Tensor]) -> Any:
        given = {name: to_device(encoded[name], self.model.device) for name in _VISION_INPUTS if name in encoded}
        given["pixel_values"] = given["pixel_values"].to(self.model.dtype)
        return self.model.get_image_features(**given, return_dict=True)

    def tokens_of(self, features: Tensor) -> int:
        """How many image tokens of the prompt an image's features are for."""
        return features.shape[-2]

    def vision_outputs(self, features: Sequence[Tensor]) -> BaseModelOutputWithPooling:
        """Features of a batch in the form in which the model takes them."""
        pooled = list(features) if self.lists_features else torch.cat(list(features))
        return BaseModelOutputWithPooling(pooler_output=pooled)

    # --- forward passes ---------------------------------------------------------------------------------------------

    @property
    def packs(self) -> bool:
        """Whether completions may be packed behind one copy of their prompt; see ``unpacked_reason``."""
        return self.unpacked_reason(self.model) is None

    @classmethod
    def unpacked_reason(cls, model: PreTrainedModel) -> str | None:
        """Why a model of this kind, its weights there or not, does not take completions packed behind their prompt.

        The packed mask is boolean, which only torch's scaled_dot_product_attention reads as such, and positions count
        along one axis: eager or flash attention, sliding windows and multi-axis positions take the plain path.

        Returns:
            The end of "each behind its own prompt: …", with the remedy where there is one; None for a model that
            takes them.
        """
        text = model.config.get_text_config()
        if cls.unpacked is not None:
            return cls.unpacked
        if "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
            return "positions count along several axes"
        window = getattr(text, "sliding_window", None)
        if window:
            return f"attention looks back over a window of {window} tokens only"
        attention = getattr(text, "_attn_implementation", None)
        if attention != "sdpa":
            return (
                f"attention {attention!r} does not take a mask of each completion's own; set "
                "`options: {model: {attn_implementation: sdpa}}` on policy_backbone"
            )
        return None

    def inputs(
        self,
        batch: PromptBatch,
        completion_ids: Int[Tensor, "b t"] | None = None,
        completion_mask: Bool[Tensor, "b t"] | None = None,
    ) -> dict[str, Any]:
        """Arguments of the forward pass over prompts, or over prompts with a completion each.

        Args:
            batch: Prompts.
            completion_ids: Padded on the right.
            completion_mask: True on tokens.
        """
        inputs = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask.long(),
            "mm_encoder_outputs": {"image": self.vision_outputs(batch.image_features)},
        }
        if completion_ids is not None and completion_mask is not None:
            # What lies off the mask may be anything, even a token that stands for an image.
            ids = torch.where(completion_mask, completion_ids, self.pad_id)
            inputs["input_ids"] = torch.cat([batch.input_ids, ids], dim=1)
            inputs["attention_mask"] = torch.cat([batch.attention_mask, completion_mask], dim=1).long()
        return inputs

    def hidden_states(self, inputs: dict[str, Any]) -> Float[Tensor, "n s d"]:
        """Last hidden states, those that the output layer reads."""
        return self.model.base_model(**inputs, use_cache=False).last_hidden_state

    def prefill(self, inputs: dict[str, Any]) -> tuple[Float[Tensor, "n v"], Cache]:
        """Logits after the prompts, and the key-value cache that ``step`` goes on with."""
        output = self.model(**inputs, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1], output.past_key_values

    def next_positions(self, inputs: dict[str, Any]) -> Int[Tensor, " n"] | None:
        """Position of each prompt's first completion token; None where the model counts by its cache."""
        return None

    def step(
        self,
        tokens: Int[Tensor, " n"],
        attention_mask: Int[Tensor, "n s"],
        cache: Cache,
        positions: Int[Tensor, " n"] | None,
    ) -> tuple[Float[Tensor, "n v"], Cache]:
        """Logits after one more token a row.

        Args:
            tokens: The tokens.
            attention_mask: One on what counts, the tokens included.
            cache: Of everything before.
            positions: Of the tokens; None where the model counts by its cache.
        """
        output = self.model(
            input_ids=tokens[:, None], attention_mask=attention_mask, past_key_values=cache, use_cache=True
        )
        return output.logits[:, -1], output.past_key_values
