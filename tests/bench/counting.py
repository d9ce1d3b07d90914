"""What a stage computed, counted: passes of each model, what went through them, floating-point operations, bytes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.verifier import DualEncoderVerifier

# What towers take, whichever is there.
_INPUTS = ("inputs_embeds", "input_ids", "pixel_values")


@contextmanager
def counted(policy: Policy | None = None, verifier: DualEncoderVerifier | None = None) -> Iterator[Counter[str]]:
    """Counts while the block runs.

    Gives:
        `language passes` and `positions` (rows times columns, padding included) of the policy's language tower,
        `pictures seen` by its vision tower in `vision passes`; `pictures scored` and `texts embedded` by the verifier;
        `flops` of matrix products and attention, both ways; `bytes kept` for backward passes, weights left out.
    """
    counts: Counter[str] = Counter()
    watched: list[tuple[nn.Module, str, str]] = []
    weights: set[int] = set()
    if policy is not None:
        watched += [
            (policy.backbone.get_decoder(), "language passes", "positions"),
            (policy.backbone.model.vision_tower, "vision passes", "pictures seen"),
        ]
        weights = {parameter.untyped_storage().data_ptr() for parameter in policy.model.parameters()}
    if verifier is not None:
        watched += [
            (verifier.model.vision_model, "verifier's vision passes", "pictures scored"),
            (verifier.model.text_model, "text passes", "texts embedded"),
        ]
    # Held on to, so that no other takes its place.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with ExitStack() as stack:
        for module, passes, amount in watched:
            stack.callback(module.register_forward_pre_hook(_counter(counts, passes, amount), with_kwargs=True).remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        flops = stack.enter_context(FlopCounterMode(display=False))
        yield counts
    counts["flops"] = flops.get_total_flops()
    counts["bytes kept"] = sum(storage.nbytes() for storage in kept.values())


def _counter(counts: Counter[str], passes: str, amount: str) -> Any:
    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        given = [*args, *(kwargs.get(name) for name in _INPUTS)]
        batch = next(tensor for tensor in given if tensor is not None)
        counts[passes] += 1
        counts[amount] += batch.shape[0] * (batch.shape[1] if amount == "positions" else 1)

    return note
