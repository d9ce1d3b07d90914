"""How large a model is, from its configuration alone: built without storage, so that no weights are read or needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    Blip2ForImageTextRetrieval,
    PreTrainedConfig,
    PreTrainedModel,
)

from fisao_pipeline.models.backbones.choice import KINDS, check_supported, kind_of
from fisao_pipeline.models.loading import attention_option, attention_told, read_config
from fisao_pipeline.models.lora import attach_lora, language_tower_name
from fisao_pipeline.models.quantization import quantizable_parameters
from fisao_pipeline.models.shared_prompts import unshared_reason
from fisao_pipeline.models.source import CONFIG_FILE, ModelSource, find_model, is_folder, looks_local
from fisao_pipeline.params.lora import LoraParams

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class PolicyShape:
    """Sizes of a vision-language model with a LoRA adapter; parameters are counted, bytes are of one parameter.

    Attributes:
        kind: Name of the model's class.
        dtype: What the weights are loaded as.
        parameters: All of the backbone's.
        language_parameters: Of the language tower, embeddings included, the output layer not.
        head_parameters: Of the output layer; those that it shares with the embeddings count there alone.
        vision_parameters: The rest: vision tower, projector, Q-Former.
        lora_parameters: Trainable ones of the adapter.
        lora_layers: Linear layers of one decoder layer that the adapter is on, as (inputs, outputs).
        layers: Decoder layers.
        hidden: Width of the language tower.
        intermediate: Width inside its feed-forward layers.
        query_width: Attention heads times their width.
        key_width: Key-value heads times their width.
        vocabulary: Rows of the output layer.
        context_tokens: What the configuration allows; None without a limit.
        image_tokens: What an image takes in the prompt; None where that depends on its size, or is not configured.
        vision_tokens: What the vision tower computes for an image; None where the configuration does not say.
        unpacked: Why completions are scored each behind its own prompt; None where they share one.
        unshared: Why completions are drawn each with its own copy of the prompt's cache; None where they share one.
        linear_parameters: Of the language tower's linear layers, those that 4 bits are for.
        quantization: `nf4` where these are 4-bit; None where all is in ``dtype``.
        patches_per_token: Patches of the vision tower that become one image token, where ``vision_tokens`` is None.
    """

    kind: str
    dtype: str
    parameters: int
    language_parameters: int
    head_parameters: int
    vision_parameters: int
    lora_parameters: int
    lora_layers: tuple[tuple[int, int], ...]
    layers: int
    hidden: int
    intermediate: int
    query_width: int
    key_width: int
    vocabulary: int
    context_tokens: int | None
    image_tokens: int | None
    vision_tokens: int | None
    unpacked: str | None = None
    unshared: str | None = None
    linear_parameters: int = 0
    quantization: str | None = None
    patches_per_token: int = 1

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one weight, and of what is computed."""
        return BYTES[self.dtype]

    @property
    def packs(self) -> bool:
        """Whether completions are scored behind one copy of their prompt, or each behind its own."""
        return self.unpacked is None

    @property
    def linear_tokens(self) -> float:
        """What the linear layers do for a token, in pairs of tokens in attention; see ``packing.pack_count``."""
        return self.linear_parameters / (2 * self.layers * self.query_width) if self.linear_parameters else math.inf


@dataclass(frozen=True)
class VerifierShape:
    """Size of a verifier: its parameters, and bytes of each."""

    kind: str
    dtype: str
    parameters: int

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one weight."""
        return BYTES[self.dtype]


def load_config(source: ModelSource) -> PreTrainedConfig:
    """A model's configuration from its folder or the local cache, which may hold it without the weights.

    Raises:
        ModelNotFoundError: If it is not on this machine; the message says how to get it.
        ValueError: If the model wants to run code of its own.
    """
    # Weights may be missing: a hub model's cached configuration is enough.
    if is_folder(source) or looks_local(source.path_or_id) or _cached_config(source) is None:
        find_model(source.path_or_id, source.revision, source.allow_download)
    return read_config(source)


def policy_shape(source: ModelSource, lora: LoraParams) -> PolicyShape:
    """Sizes of the policy; the adapter is attached by the very code that training uses.

    Raises:
        ModelNotFoundError: If there is no configuration on this machine.
        ValueError: If the model is of no supported kind, or the adapter's targets are none of its layers.
        ImportError: If its implementation of attention needs a package that is not installed.
    """
    config = load_config(source)
    check_supported(config, source.path_or_id)
    with attention_told(source):
        shape = shape_of_config(config, _dtype(source, config), lora, attention_option(source))
    return replace(shape, quantization=source.quantization)


def shape_of_config(
    config: PreTrainedConfig, dtype: str, lora: LoraParams, options: Mapping[str, Any] | None = None
) -> PolicyShape:
    """As ``policy_shape``, of a configuration in memory; ``options`` are those that choose what attention runs on."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype), **(options or {}))
    total = _count(model)
    tower = model.get_submodule(language_tower_name(model))
    inside = {id(p) for p in tower.parameters()}
    head = model.get_output_embeddings()
    of_head = sum(p.numel() for p in head.parameters() if id(p) not in inside) if head is not None else 0
    # Counted before the adapter is put into it.
    language, linear = _count(tower), quantizable_parameters(model)
    text = config.get_text_config()
    with torch.device("meta"):
        adapted = attach_lora(model.requires_grad_(False), lora)
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return PolicyShape(
        kind=type(model).__name__,
        dtype=dtype,
        parameters=total,
        language_parameters=language,
        head_parameters=of_head,
        vision_parameters=total - language - of_head,
        lora_parameters=sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        lora_layers=_adapted_layers(adapted, text.num_hidden_layers),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or getattr(text, "ffn_dim", None) or 4 * text.hidden_size,
        query_width=heads * width,
        key_width=(getattr(text, "num_key_value_heads", None) or heads) * width,
        vocabulary=text.vocab_size,
        context_tokens=getattr(text, "max_position_embeddings", None),
        image_tokens=_image_tokens(config),
        vision_tokens=_vision_tokens(config),
        unpacked=kind_of(config).unpacked_reason(model),
        unshared=unshared_reason(model),
        linear_parameters=linear,
        patches_per_token=getattr(getattr(config, "vision_config", None), "spatial_merge_size", 1) ** 2,
    )


def verifier_shape(source: ModelSource) -> VerifierShape:
    """Size of the verifier.

    Raises:
        ModelNotFoundError: If there is no configuration on this machine.
        ValueError: If transformers knows no model of that kind.
        ImportError: If its implementation of attention needs a package that is not installed.
    """
    config = load_config(source)
    dtype = _dtype(source, config)
    # As `models.verifier` loads it: BLIP-2's base class would bring a language model along.
    build = Blip2ForImageTextRetrieval._from_config if config.model_type == "blip-2" else AutoModel.from_config
    with torch.device("meta"), attention_told(source):
        model = build(config, **attention_option(source))
    return VerifierShape(type(model).__name__, dtype, _count(model))


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _dtype(source: ModelSource, config: PreTrainedConfig) -> str:
    """`auto` is the type that the configuration names, as in loading."""
    name = source.dtype
    if name == "auto":
        name = str(getattr(config, "dtype", None) or config.get_text_config().dtype or "float32").removeprefix("torch.")
    if name not in BYTES:
        raise ValueError(f"dtype {name!r} of {source.path_or_id!r} is none of {', '.join(BYTES)}")
    return name


def _adapted_layers(model: PreTrainedModel | nn.Module, layers: int) -> tuple[tuple[int, int], ...]:
    """(inputs, outputs) of the adapted linear layers of one decoder layer: all of them are alike."""
    found = [
        (module.lora_A["default"].in_features, module.lora_B["default"].out_features)
        for module in model.modules()
        if hasattr(module, "lora_A")
    ]
    return tuple(found[: len(found) // layers])


def _image_tokens(config: Any) -> int | None:
    kind = KINDS.get(config.model_type)
    if kind is not None and not kind.equal_images:
        return None
    for name in ("image_seq_length", "num_query_tokens", "mm_tokens_per_image"):
        if isinstance(getattr(config, name, None), int):
            return getattr(config, name)
    return _vision_tokens(config)


def _vision_tokens(config: Any) -> int | None:
    vision = getattr(config, "vision_config", None)
    side, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    return (side // patch) ** 2 if isinstance(side, int) and isinstance(patch, int) else None


def _cached_config(source: ModelSource) -> str | None:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - slow to import, and local folders need it not

    found = try_to_load_from_cache(source.path_or_id, CONFIG_FILE, revision=source.revision)
    return found if isinstance(found, str) else None
