"""LoRA on the language tower only, its targets found from the module tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import nn
from transformers import PreTrainedModel

from fisao_pipeline.params.lora import LoraParams


def language_tower_name(model: PreTrainedModel) -> str:
    """Dotted name of the decoder inside a vision-language model.

    Raises:
        ValueError: If the model has no decoder of its own beside its vision tower.
    """
    decoder = model.get_decoder()
    for name, module in model.named_modules():
        if module is decoder and name and not _sees(decoder):
            return name
    raise ValueError(f"{type(model).__name__} has no language tower that LoRA could be restricted to")


def _sees(module: nn.Module) -> bool:
    """Whether a module cuts pictures into patches."""
    return any(isinstance(part, nn.Conv2d | nn.Conv3d) for part in module.modules())


def lora_target_pattern(model: PreTrainedModel, targets: tuple[str, ...]) -> str:
    """A regular expression that matches the linear layers named ``targets`` in the language tower and nothing else.

    A bare ``q_proj`` would also adapt the vision tower, and the verifier would drift with the policy.

    Raises:
        ValueError: If a target names no linear layer of the language tower; the message lists what there is.
    """
    tower = language_tower_name(model)
    leaves = {
        name.rsplit(".", 1)[-1]
        for name, module in model.get_submodule(tower).named_modules()
        if isinstance(module, nn.Linear)
    }
    missing = set(targets) - leaves
    if missing:
        raise ValueError(
            f"policy_training.lora.targets: {sorted(missing)} are no linear layers of {tower} in "
            f"{type(model).__name__}; choose from {sorted(leaves)}"
        )
    return rf"{re.escape(tower)}\..*\.({'|'.join(map(re.escape, targets))})"


def attach_lora(model: PreTrainedModel, lora: LoraParams) -> PeftModel:
    """Wrap a model with a fresh adapter; everything but the adapter is frozen and dropout is off."""
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=lora_target_pattern(model, lora.targets),
        task_type="CAUSAL_LM",
    )
    peft_model = get_peft_model(model, config)
    tower = language_tower_name(model)
    strays = [n for n, p in peft_model.named_parameters() if p.requires_grad and f".{tower}." not in n]
    if strays:
        raise ValueError(f"LoRA reached outside the language tower {tower}: {strays[:3]}")
    return peft_model


@contextmanager
def computing_as_backbone(model: PeftModel) -> Iterator[None]:
    """In the block the adapter of a backbone in bfloat16 computes in bfloat16 too; its weights stay in float32.

    PEFT keeps them so, lest small steps be rounded away, and without this computes in float32 as well: products that a
    GPU does many times more slowly than those of the layer they are added to, and a float32 copy of the input of every
    adapted layer, kept for the backward pass.
    """
    backbone = model.get_base_model()
    if backbone.dtype is not torch.bfloat16:
        yield
        return
    with torch.autocast(backbone.device.type, dtype=torch.bfloat16), disable_input_dtype_casting(model):
        yield
