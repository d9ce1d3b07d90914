"""How every pocket model is fitted: AdamW, a warm-up, a cosine down to nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter
from tqdm.auto import tqdm

# Draws the next batch; the loss to descend, and what the progress bar shows.
Losses = Callable[[], tuple[Tensor, Mapping[str, Tensor]]]


def descend(
    parameters: Iterable[Parameter], losses: Losses, steps: int, learning_rate: float, weight_decay: float, name: str
) -> None:
    """Take ``steps`` steps down the loss; gradients are clipped to a norm of 1.

    Args:
        parameters: What is fitted.
        losses: Called once a step.
        steps: The first 50 warm up.
        learning_rate: Peak of the schedule.
        weight_decay: Of AdamW.
        name: What the progress bar is called.
    """
    fitted = list(parameters)
    optimizer = torch.optim.AdamW(fitted, lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, steps))
    progress = tqdm(range(steps), desc=name, unit="step")
    for _ in progress:
        loss, shown = losses()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(fitted, 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix({key: f"{value.item():.3f}" for key, value in shown.items()})


def _cosine(step: int, steps: int, warmup: int = 50) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
