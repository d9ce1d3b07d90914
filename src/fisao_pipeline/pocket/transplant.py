"""The pocket CLIP's image tower in BLIP-2's classes: the real BLIP-2's is a CLIP's, too, without the last layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2VisionModel, CLIPVisionConfig, CLIPVisionModel

# CLIP normalises what it embeds, BLIP-2 does not. A layer before CLIP's own does that here: it adds this norm, and
# nothing else, to embeddings so small that they do not count beside it.
_SMALL = 2.0**-12


def tower_sizes(clip: CLIPVisionConfig) -> dict[str, Any]:
    """Configuration of a BLIP-2 image tower that can hold a CLIP's.

    Raises:
        ValueError: If its layers are too narrow to pass on what they read.
    """
    if clip.intermediate_size < 2 * clip.hidden_size:
        raise ValueError(f"intermediate_size {clip.intermediate_size} is less than twice {clip.hidden_size}")
    return {
        "hidden_size": clip.hidden_size,
        "intermediate_size": clip.intermediate_size,
        # One for the norm, and all but the last.
        "num_hidden_layers": clip.num_hidden_layers,
        "num_attention_heads": clip.num_attention_heads,
        "image_size": clip.image_size,
        "patch_size": clip.patch_size,
        "hidden_act": clip.hidden_act,
        "layer_norm_eps": clip.layer_norm_eps * _SMALL**2,
    }


@torch.no_grad()
def transplant(clip: CLIPVisionModel, tower: Blip2VisionModel) -> None:
    """Make a BLIP-2 tower of ``tower_sizes`` see what CLIP's last layer but one does, normalised."""
    embeddings = clip.embeddings
    tower.embeddings.patch_embedding.weight.copy_(_SMALL * embeddings.patch_embedding.weight)
    tower.embeddings.patch_embedding.bias.zero_()
    tower.embeddings.class_embedding.copy_(_SMALL * embeddings.class_embedding[None, None])
    tower.embeddings.position_embedding.copy_(_SMALL * embeddings.position_embedding.weight[None])
    first, *others = tower.encoder.layers
    _only_norm(first, clip.pre_layrnorm)
    for layer, original in zip(others, clip.encoder.layers[:-1], strict=True):
        layer.load_state_dict(_layer_state(original))
    nn.init.ones_(tower.post_layernorm.weight)
    nn.init.zeros_(tower.post_layernorm.bias)


def _only_norm(layer: nn.Module, norm: nn.LayerNorm) -> None:
    """Make a layer add to what it reads the norm of it, which for ``_SMALL`` inputs is all that is left."""
    for parameter in layer.parameters():
        parameter.zero_()
    layer.layer_norm2.load_state_dict(norm.state_dict())
    # A GELU, quick or not, of x less that of -x is x.
    width = len(norm.weight)
    identity = torch.eye(width)
    layer.mlp.fc1.weight[: 2 * width] = torch.cat([identity, -identity])
    layer.mlp.fc2.weight[:, : 2 * width] = torch.cat([identity, -identity], dim=1)


def _layer_state(layer: nn.Module) -> dict[str, Tensor]:
    """A CLIP layer under the names of BLIP-2's, which has one matrix for queries, keys and values."""
    state = layer.state_dict()
    for kind in ("weight", "bias"):
        parts = [state.pop(f"self_attn.{part}_proj.{kind}") for part in "qkv"]
        state[f"self_attn.qkv.{kind}"] = torch.cat(parts)
        state[f"self_attn.projection.{kind}"] = state.pop(f"self_attn.out_proj.{kind}")
    return state
