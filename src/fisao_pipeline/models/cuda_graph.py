"""Work of a GPU that is recorded once and asked for at once from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import torch
from torch import Tensor


class Graph(Protocol):
    """Records what a function makes a device do."""

    def run(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute where it will be recorded, so that all is there that a first time makes."""

    def record(self, compute: Callable[[], Tensor]) -> Tensor:
        """Record, and give the result that each replay fills anew; it holds nothing yet."""

    def replay(self) -> None:
        """Do what was recorded."""


class CudaGraph:
    """A CUDA graph.

    Args:
        device: The GPU.
        before: A graph of which nothing is used any more; this one computes in its memory.
    """

    def __init__(self, device: torch.device, before: CudaGraph | None) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # Kept until this one is recorded: a pool that no graph is in cannot be recorded into.
        self._before = before
        self._stream = torch.cuda.Stream(device) if before is None else before._stream

    @contextmanager
    def _aside(self) -> Iterator[None]:
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            here.wait_stream(self._stream)

    def run(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute on the stream that is recorded: libraries keep some memory for each."""
        with self._aside():
            return compute()

    def record(self, compute: Callable[[], Tensor]) -> Tensor:
        """Record.

        Raises:
            RuntimeError: What is computed cannot be recorded, as it waits for the device, say; torch's message.
        """
        pool = () if self._before is None else (self._before._graph.pool(),)
        with self._aside():
            # Not `torch.cuda.graph`, which empties the allocator's cache each time. Other threads, which read images,
            # may allocate meanwhile.
            self._graph.capture_begin(*pool, capture_error_mode="thread_local")
            try:
                result = compute()
            except BaseException:
                with suppress(RuntimeError):  # which would hide why
                    self._graph.capture_end()
                raise
            self._graph.capture_end()
        self._before = None
        return result

    def replay(self) -> None:
        """Do what was recorded, on the current stream."""
        self._graph.replay()
