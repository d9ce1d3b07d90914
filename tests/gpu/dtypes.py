"""What type a policy really computes in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fisao_pipeline.models.policy import Policy

ENDS = ("base_layer", "lora_A.default", "lora_B.default", "input_layernorm", "lm_head")


@contextmanager
def output_types(policy: Policy) -> Iterator[set[torch.dtype]]:
    """Fills with the types that the decoder's linear layers, their adapters and norms give while the block runs."""
    seen: set[torch.dtype] = set()

    def note(_module, _inputs, output) -> None:
        seen.add(output.dtype)

    modules = [m for n, m in policy.backbone.named_modules() if n.endswith(ENDS)]
    handles = [module.register_forward_hook(note) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
