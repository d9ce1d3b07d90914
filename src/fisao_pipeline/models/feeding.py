"""Keeping a GPU fed: what it will see next is read by threads while it computes, and copied without waiting."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

Item = TypeVar("Item")
Made = TypeVar("Made")

_MOST_THREADS = 8
# Made and waiting for each thread, at most: what bounds memory.
_AHEAD = 2


def reading_threads(device: torch.device) -> int:
    """Threads that read images for a device; none for the CPU, which would only wait for itself."""
    return 0 if device.type == "cpu" else min(_MOST_THREADS, os.cpu_count() or 1)


def prefetched(make: Callable[[Item], Made], items: Iterable[Item], threads: int) -> Iterator[Made]:
    """What is made of each item, in order, a few made ahead by threads while the caller works on those before.

    An exception comes out where its item would have. The threads end with the iterator, exhausted or closed.

    Args:
        make: Called once for each item, in any thread.
        items: Read in the caller's thread.
        threads: 0 makes each item when it is asked for, in the caller's thread.
    """
    if threads == 0:
        yield from map(make, items)
        return
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def open_named(open_image: Callable[[str], Image.Image], image_id: str) -> Image.Image:
    """The picture of an id; an exception gets a note with the id, as its traceback may end in a thread."""
    try:
        return open_image(image_id)
    except Exception as error:
        error.add_note(f"while image {image_id!r} was opened")
        raise


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; to a GPU through pinned memory, without waiting for the copy."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
