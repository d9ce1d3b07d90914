"""An adapter merged into its base model: a full model for those who have no PEFT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from fisao_pipeline.models.lora import language_tower_name
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.source import ModelSource


def merge_adapter(source: ModelSource, adapter: Path, output: Path) -> int:
    """Write base model plus adapter, W + (α / r) B A in place of each adapted W, and the processor, as safetensors.

    Args:
        source: The base model that the adapter was trained on. One of 4-bit weights is merged into the weights that
            those were made of, as ``source.dtype`` says: a merged weight would not fit into 4 bits unchanged.
        adapter: PEFT folder.
        output: An existing empty folder.

    Returns:
        Parameters outside the language tower, all of which are the base model's, bit by bit.

    Raises:
        ValueError: If the adapter was trained for another base model, or merging makes a weight infinite or NaN.
        RuntimeError: If anything outside the language tower changed; nothing is written then.
    """
    policy = Policy.load(replace(source, quantization=None), adapter=adapter)
    tower = f"{language_tower_name(policy.backbone)}."
    before = {n: p.detach().cpu().clone() for n, p in policy.backbone.named_parameters() if not n.startswith(tower)}
    merged = policy.model.merge_and_unload(safe_merge=True)
    after = {n: p.detach().cpu() for n, p in merged.named_parameters() if not n.startswith(tower)}
    changed = [n for n in before.keys() | after.keys() if n not in before or n not in after]
    changed += [n for n in before.keys() & after.keys() if not torch.equal(before[n], after[n])]
    if changed:
        raise RuntimeError(f"merging changed {sorted(changed)[:3]} outside the language tower {tower[:-1]}")
    merged.save_pretrained(output)
    policy.processor.save_pretrained(output)
    return sum(p.numel() for p in before.values())
