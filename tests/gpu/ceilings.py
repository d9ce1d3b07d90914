"""What a device reaches at best where nothing else is to be done: products of matrices, and copies."""

import time
from collections.abc import Callable

import torch


def matrix_rate(
    device: torch.device, dtype: torch.dtype, side: int = 8192, rounds: int = 5, repeats: int = 20
) -> float:
    """Operations a second of products of two square matrices, 2 side³ each; the best round's."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    seconds = best_seconds(lambda: torch.mm(left, right, out=out), device, rounds, repeats)
    return 2.0 * side**3 / seconds


def copy_rate(device: torch.device, size: int = 2 << 30, rounds: int = 5, repeats: int = 10) -> float:
    """Bytes a second of copies within the device's memory, read and written ones together; the best round's."""
    # Random bytes: what is all zero may be kept or sent in a shorter form.
    source = torch.randint(0, 256, (size,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2.0 * size / best_seconds(lambda: target.copy_(source), device, rounds, repeats)


def best_seconds(run: Callable[[], object], device: torch.device, rounds: int, repeats: int) -> float:
    """Seconds of one run in the best of some rounds of some repeats each; a first round does not count."""
    times = []
    for _ in range(rounds + 1):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        synchronize(device)
        times.append((time.perf_counter() - started) / repeats)
    return min(times[1:])


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
