"""Four bits a weight in the language tower's linear layers (QLoRA); all else stays as it is loaded."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from fisao_pipeline.models.lora import language_tower_name
from fisao_pipeline.models.source import ModelSource

logger = logging.getLogger(__name__)

# Of NF4 with double quantization: half a byte, a scale of one byte for 64 weights, a float32 for 256 such scales.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
_COMPUTED_IN = ("bfloat16", "float16", "float32")


def four_bit_options(auto_class: Any, config: PreTrainedConfig, source: ModelSource, device: torch.device) -> dict:
    """Arguments of ``from_pretrained`` that load a vision-language model with a 4-bit language tower.

    NF4 with double quantization, computed in the source's dtype. Norms, embeddings, output layer, projector and vision
    tower are not touched: the policy sees what it sees in 16 bits. PEFT's ``prepare_model_for_kbit_training`` is not
    called on purpose. It would turn all of these to float32, and what it is for is given already: norms compute in
    float32 whatever their weights are in, logits become float32 before the softmax (``method.logprobs``), and
    checkpointing without re-entry needs no inputs with gradients (``models.checkpointing``).

    Raises:
        ValueError: If the device or dtype cannot compute with such weights.
    """
    check_four_bit(source, device)
    if device.type == "cpu":
        logger.warning("%s on the CPU saves memory and takes more time; it is meant for CUDA.", _asked_for(source))
    with torch.device("meta"):
        skeleton = auto_class.from_config(config)
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, source.dtype),
        llm_int8_skip_modules=outside_language_tower(skeleton),
    )
    # Weights are quantized on their way to the device.
    return {"quantization_config": quantized, "device_map": {"": str(device)}}


def check_four_bit(source: ModelSource, device: torch.device) -> None:
    """Refuse 4-bit weights where they cannot be computed with.

    Raises:
        ValueError: If it is the device or the dtype; with what to set.
    """
    what = _asked_for(source)
    if device.type not in ("cuda", "cpu"):
        raise ValueError(f"{what} needs a CUDA device (or, slowly, the CPU), not {device.type!r}: set `device`")
    if source.dtype not in _COMPUTED_IN:
        raise ValueError(
            f"{what} needs the type to compute in: set `dtype: bfloat16` (or {', '.join(_COMPUTED_IN[1:])}), not "
            f"{source.dtype!r}"
        )


def _asked_for(source: ModelSource) -> str:
    return f"`quantization: nf4` of {source.path_or_id!r}"


def outside_language_tower(model: PreTrainedModel) -> list[str]:
    """Names of the largest modules that hold nothing of the language tower: vision tower, projector, output layer."""
    tower = language_tower_name(model)
    parts = tower.split(".")
    outside = []
    for depth in range(len(parts)):
        parent = ".".join(parts[:depth])
        for name, _ in model.get_submodule(parent).named_children():
            if name != parts[depth]:
                outside.append(f"{parent}.{name}" if parent else name)
    return outside


def is_four_bit(module: nn.Module) -> bool:
    """Whether a module is a linear layer of 4-bit weights."""
    return isinstance(module, nn.Linear) and type(module).__name__ == "Linear4bit"


def keep_trainable_on_cpu(model: PreTrainedModel) -> None:
    """Keep 4-bit weights on a CPU in the form that has gradients.

    On CPUs with bfloat16 instructions bitsandbytes re-packs a layer at its first pass without gradients, which sampling
    is. From then on it computes in bfloat16, and gradients end at that layer without a word (0.50.2).
    """
    for module in model.modules():
        if is_four_bit(module) and module.weight.device.type == "cpu":
            module.support_avx512bf16_for_cpu = False


def quantizable_parameters(model: PreTrainedModel) -> int:
    """Weights of the language tower's linear layers: those that become 4-bit ones."""
    tower = model.get_submodule(language_tower_name(model))
    return sum(module.weight.numel() for module in tower.modules() if isinstance(module, nn.Linear))
