"""Activations computed again in the backward pass instead of kept: more time, far less memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from fisao_pipeline.models.lora import language_tower_name


def checkpoint_activations(model: PreTrainedModel) -> int:
    """Keep only the input of each decoder layer, where gradients are needed; returns how many layers that is.

    transformers checkpoints in training mode alone, which would turn dropout on: here the layers are in it themselves,
    while all modules inside them stay in evaluation mode.

    Raises:
        ValueError: If the language tower has no layers that can be checkpointed.
    """
    tower: nn.Module = model.get_submodule(language_tower_name(model))
    layers = [module for module in tower.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layers that can be checkpointed: take gradient_checkpointing out of "
            "policy_backbone.options"
        )
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in layers:
        layer.training = True
    return len(layers)


@contextmanager
def without_checkpointing(model: PreTrainedModel) -> Iterator[None]:
    """No layer checkpoints in the block: one that does takes no key-value cache, and no gradient asks for it either."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer) and m.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True
