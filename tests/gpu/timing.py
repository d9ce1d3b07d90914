"""Seconds and memory of something that a device does."""

import time
from collections.abc import Callable
from typing import Any

import torch
from tests.gpu.ceilings import synchronize


def timed(run: Callable[[], Any], device: torch.device) -> tuple[Any, float, int | None]:
    """What a run gives, its seconds, and on a GPU the most bytes in tensors while it ran."""
    on_gpu = device.type == "cuda"
    synchronize(device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    result = run()
    synchronize(device)
    seconds = time.perf_counter() - started
    return result, seconds, torch.cuda.max_memory_allocated() if on_gpu else None
