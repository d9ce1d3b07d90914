"""Steps of drawing: logits after one more token a row, on CUDA recorded once and replayed.

A step is some thousands of small operations, and Python takes longer to ask a GPU for them than the GPU to do them. A
CUDA graph is asked for at once. It is a recording: the same kernels on the same memory with the same numbers. So steps
are done in fixed shapes (`SharedPrompts.fixed_shapes`), and what changes from one to the next is put where the graph
reads it; a new one is recorded when there are other rows, or when room is made for more tokens.

Whoever reads a number off a shape, how wide the mask is, say, would compute something else in fixed shapes; and whoever
computes something in Python that changes from step to step would be recorded wrongly. So the first step of a model in
fixed shapes is compared with one as ever, but for rounding, and its first replays with steps that are not recorded. A
model that differs, or that cannot be recorded, is not: one line in the log says why.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache

from fisao_pipeline.models.backbones.generic import BackboneKind
from fisao_pipeline.models.cuda_graph import CudaGraph, Graph
from fisao_pipeline.models.shared_prompts import SharedPrompts

logger = logging.getLogger(__name__)

_COMPARED = 8  # replays of a model before it is trusted
_WORTH = 3  # steps that a recording must be good for: it costs about one


class Steps:
    """Of the completions of prompts, those of a prompt adjacent.

    Args:
        kind: Of the model.
        cache: Of all rows.
        attention: One on what counts of each row's prompt, [r, p].
        positions: Of each row's first token, [r]; None where the model counts by its cache.
    """

    def __init__(
        self, kind: BackboneKind, cache: Cache, attention: Int[Tensor, "r p"], positions: Int[Tensor, " r"] | None
    ) -> None:
        self.kind, self.cache, self.attention, self.positions = kind, cache, attention, positions
        self.taken = 0  # tokens of each row

    def after(self, tokens: Int[Tensor, " r"], left: int) -> Float[Tensor, "r v"]:
        """Logits after one more token a row, to be read before the next step.

        Args:
            tokens: The tokens.
            left: How many more steps there may be.
        """
        logits = self._plain(tokens)
        self.taken += 1
        return logits

    def select(self, rows: Int[Tensor, " m"]) -> None:
        """Go on with these rows; those of a prompt are still adjacent."""
        self.cache.batch_select_indices(rows)
        self.attention = self.attention[rows]
        self.positions = self.positions[rows] if self.positions is not None else None

    def _plain(self, tokens: Tensor) -> Float[Tensor, "r v"]:
        own = self.attention.new_ones(len(tokens), self.taken + 1)
        mask = torch.cat([self.attention, own], dim=1)
        return self._run(tokens, mask, None if self.positions is None else self.positions + self.taken)

    def _run(self, tokens: Tensor, mask: Tensor, positions: Tensor | None) -> Float[Tensor, "r v"]:
        logits, self.cache = self.kind.step(tokens, mask, self.cache, positions)
        return logits


@dataclass
class _Recording:
    """A graph, what it reads, [r], [r, p + room], [r], [], and what it fills, [r, v]."""

    graph: Graph
    tokens: Tensor
    mask: Tensor
    positions: Tensor | None
    place: Tensor
    logits: Tensor | None = None  # None until recorded


class RecordedSteps(Steps):
    """Steps on a device whose work can be recorded.

    Args:
        kind: Of the model.
        cache: Of all rows, which share their prompts' keys and values.
        attention: As of ``Steps``.
        positions: As of ``Steps``.
        graph_after: Makes a graph, given the one before, which is of no use any more; that of another batch at first.
    """

    cache: SharedPrompts

    def __init__(
        self,
        kind: BackboneKind,
        cache: SharedPrompts,
        attention: Int[Tensor, "r p"],
        positions: Int[Tensor, " r"] | None,
        graph_after: Callable[[Graph | None], Graph],
    ) -> None:
        super().__init__(kind, cache, attention, positions)
        self._graph_after = graph_after
        self._recording: _Recording | None = None
        self._width = attention.shape[1]
        self._out_of_memory = 0  # times

    def select(self, rows: Int[Tensor, " m"]) -> None:
        """Go on with these rows; those of a prompt are still adjacent."""
        super().select(rows)
        self._recording = None

    def after(self, tokens: Int[Tensor, " r"], left: int) -> Float[Tensor, "r v"]:
        """Logits after one more token a row; as ever where recording is not worth it or does not go."""
        if self.cache.length == self.cache.room:
            self.cache.make_room()
            self._recording = None
        if self._recording is not None:
            self._write(self._recording, tokens)
            logits = self._replayed(self._recording)
        elif min(left, self.cache.room - self.cache.length - 1) < _WORTH or self._is_hopeless:
            return super().after(tokens, left)
        else:
            recorded = self._recorded(tokens)
            if recorded is None:
                return super().after(tokens, left)
            logits = recorded
        self.cache.took_in()
        self.taken += 1
        return logits

    @property
    def _is_hopeless(self) -> bool:
        return self.kind.model in _REFUSED or self._out_of_memory > 1

    def _recorded(self, tokens: Tensor) -> Float[Tensor, "r v"] | None:
        """A step in fixed shapes, and its recording; None where the model does not take such a step."""
        recording = self._begin(tokens)
        try:
            logits = recording.graph.run(lambda: self._fixed(recording))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._refuse(_line(error))
            return None
        if self.kind.model not in _TO_COMPARE:
            gap = _gap(logits, self._plain(tokens), max(8 * torch.finfo(logits.dtype).eps, 1e-3))
            self.cache.took_in(-1)
            if gap is not None:
                self._refuse(f"in fixed shapes {gap}")
                return None
            _TO_COMPARE[self.kind.model] = _COMPARED
        try:
            recording.logits = recording.graph.record(lambda: self._fixed(recording))
        except torch.OutOfMemoryError:
            # Steps as they were do fit. What the allocator keeps for later it cannot give back while it is recorded.
            self._out_of_memory += 1
            torch.cuda.empty_cache()
        except Exception as error:
            self._refuse(_line(error))
        else:
            self._recording = recording
            _LAST[tokens.device] = recording.graph
            return logits
        _LAST.pop(tokens.device, None)  # a recording that failed may have left its memory unfit for another
        torch.clear_autocast_cache()  # of weights that nobody has computed
        return logits

    def _begin(self, tokens: Tensor) -> _Recording:
        rows, device = len(tokens), tokens.device
        recording = _Recording(
            self._graph_after(_LAST.get(device)),
            torch.empty_like(tokens),
            self.attention.new_zeros(rows, self._width + self.cache.room),
            None if self.positions is None else torch.empty_like(self.positions),
            torch.zeros((), dtype=torch.long, device=device),
        )
        recording.mask[:, : self._width + self.taken] = 1
        recording.mask[:, : self._width] = self.attention
        self._write(recording, tokens)
        return recording

    def _write(self, recording: _Recording, tokens: Tensor) -> None:
        """Put what this step has of its own where the graph reads it."""
        recording.tokens.copy_(tokens)
        recording.mask[:, self._width + self.taken] = 1
        recording.place.fill_(self.taken)
        if recording.positions is not None and self.positions is not None:
            torch.add(self.positions, self.taken, out=recording.positions)

    def _fixed(self, recording: _Recording) -> Float[Tensor, "r v"]:
        with self.cache.fixed_shapes(recording.place):
            return self._run(recording.tokens, recording.mask, recording.positions)

    def _replayed(self, recording: _Recording) -> Float[Tensor, "r v"]:
        recording.graph.replay()
        logits, model = recording.logits, self.kind.model
        assert logits is not None
        left = _TO_COMPARE[model]
        if not left:
            return logits
        plain = self._fixed(recording)
        _TO_COMPARE[model] = left - 1
        # The same kernels on the same numbers; a little, in case one adds up in an order of its own.
        gap = _gap(logits, plain, max(torch.finfo(plain.dtype).eps, 1e-5))
        if gap is not None:
            self._refuse(gap)
            self._recording = None
        return plain

    def _refuse(self, reason: str) -> None:
        _REFUSED[self.kind.model] = reason
        logger.warning("Steps of drawing are not recorded as CUDA graphs, and so slower: %s", reason)


def _gap(logits: Tensor, plain: Tensor, allowed: float) -> str | None:
    """How far logits are off, if by more than this share of the largest; None where they are not."""
    if torch.equal(logits, plain):
        return None
    gap, size = (float(x.float().abs().amax()) for x in (logits - plain, plain))
    return None if gap <= size * allowed else f"logits are off by {gap:.3g}, of {size:.3g}"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


# The last graph of a device, kept from batch to batch, for the next one computes in its memory: what a graph had the
# allocator gives to nothing else, and back only when all memory is used up.
_LAST: dict[torch.device, Graph] = {}
# By model, whose rounds are many: how many replays are still to be compared, and why it is not recorded.
_TO_COMPARE: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_REFUSED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_is_off = False


@contextmanager
def plain_steps() -> Iterator[None]:
    """Within the block no step is recorded."""
    global _is_off  # noqa: PLW0603 - of the process, as what it switches is
    before, _is_off = _is_off, True
    try:
        yield
    finally:
        _is_off = before


def steps_of(
    kind: BackboneKind, cache: Cache, attention: Int[Tensor, "r p"], positions: Int[Tensor, " r"] | None
) -> Steps:
    """Steps that are recorded where that is possible; arguments as those of ``Steps``.

    In other threads than the main one they are not: while one thread records, no other may (PyTorch's documentation of
    CUDA graphs), nor may it draw a random number up to torch 2.11, and autocast's copies of weights, which a graph
    reads, are dropped by whichever thread leaves autocast.
    """
    graph_after = _graph_after(attention.device)
    if _is_off or graph_after is None or not isinstance(cache, SharedPrompts):
        return Steps(kind, cache, attention, positions)
    if threading.current_thread() is not threading.main_thread():
        return Steps(kind, cache, attention, positions)
    if any(layer.prompt_keys.device != attention.device for layer in cache.layers):
        return Steps(kind, cache, attention, positions)
    return RecordedSteps(kind, cache, attention, positions, graph_after)


def plain_reason(model: nn.Module) -> str | None:
    """Why steps of a model that has drawn are not recorded; None where they are, or nothing was tried."""
    return _REFUSED.get(model)


def _graph_after(device: torch.device) -> Callable[[Graph | None], Graph] | None:
    """Makes a graph of a device, given the one before; None where there are none."""
    return (lambda before: CudaGraph(device, before)) if device.type == "cuda" else None
