"""Work of a GPU that is recorded once and asked for at once from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
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
        before: A graph that was recorded and of which nothing is used any more; this one computes in its memory.
    """

    def __init__(self, device: torch.device, before: CudaGraph | None) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # Kept until this one is recorded: a pool that no graph is in cannot be recorded into.
        self._before = before
        self._pool = torch.cuda.graph_pool_handle() if before is None else before._pool
        self._stream = _stream_aside(device)

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
        """Compute on the stream that is recorded: libraries keep some memory for each.

        Raises:
            RuntimeError: Something waits for the device, and so cannot be recorded; a recording would be broken off.
        """
        before = torch.cuda.get_sync_debug_mode()
        with self._aside():
            torch.cuda.set_sync_debug_mode("error")
            try:
                return compute()
            finally:
                torch.cuda.set_sync_debug_mode(before)

    def record(self, compute: Callable[[], Tensor]) -> Tensor:
        """Record.

        Raises:
            RuntimeError: What is computed cannot be recorded, as it waits for the device, say; torch's message.
        """
        with self._aside():
            try:
                # Not `torch.cuda.graph`, which empties the allocator's cache each time. Other threads, which read
                # images, may allocate meanwhile.
                self._graph.capture_begin(self._pool, capture_error_mode="thread_local")
                result = compute()
            except BaseException:
                try:
                    self._graph.capture_end()
                except RuntimeError:  # which would hide why
                    self._give_up()
                raise
            try:
                self._graph.capture_end()
            except BaseException:
                self._give_up()
                raise
        self._before = None
        return result

    def replay(self) -> None:
        """Do what was recorded, on the current stream."""
        self._graph.replay()

    def _give_up(self) -> None:
        """Leave a recording that CUDA has broken off, on the stream of it.

        torch's `capture_end` raises then before it has told the allocator, which from then on gives no cached memory
        back, and torch 2.11's generator, which draws no random number any more.
        """
        device, pool = self._stream.device_index, self._pool
        with suppress(RuntimeError):  # it was told
            torch._C._cuda_endAllocateToPool(device, pool)
            torch._C._cuda_releasePool(device, pool)
        self._graph.reset()
        _GIVEN_UP.append(self._graph)
        with suppress(RuntimeError):
            # A recording that ends well ends the generator's, too.
            other = torch.cuda.CUDAGraph()
            other.capture_begin(capture_error_mode="thread_local")
            try:
                torch.zeros((), device=self._stream.device)
            finally:
                other.capture_end()


@cache
def _stream_aside(device: torch.device) -> torch.cuda.Stream:
    """One for all graphs of a device: cuBLAS and the allocator keep memory for each stream, for good."""
    return torch.cuda.Stream(device)


# Never let go: the allocator of pinned memory still asks them whether they are being recorded.
_GIVEN_UP: list[torch.cuda.CUDAGraph] = []
