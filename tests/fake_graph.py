"""A CUDA graph on the CPU: operations recorded one by one, and done again on the same memory with the same numbers.

What a real recording does with Python's own state this one does, too: a number that was computed in Python is the one
of the recording for ever, results lie where they lay, and nothing may be read back: the device has computed nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

# On CUDA these wait for the device, or copy from memory that it cannot see.
WAITING = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::is_nonzero",
    "aten::lift_fresh",
    "aten::_unique2",
    "aten::unique_consecutive",
}


def storages(tree: Any) -> set[int]:
    return {leaf.untyped_storage().data_ptr() for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)}


def waits(function: Any, arguments: tuple) -> bool:
    picks = [leaf for leaf in tree_flatten(arguments[1:])[0] if isinstance(leaf, Tensor)]
    by_mask = function._schema.name == "aten::index" and any(leaf.dtype == torch.bool and leaf.ndim for leaf in picks)
    return by_mask or function._schema.name in WAITING


class _NoWaiting(TorchDispatchMode):
    """As `torch.cuda.set_sync_debug_mode("error")`."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if waits(function, arguments):
            raise RuntimeError(f"{function.name()}: called a synchronizing CUDA operation")
        return function(*arguments, **(options or {}))


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Callable, tuple, dict, Any]] = []
        self.made: list[Tensor] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        if waits(function, arguments):
            raise RuntimeError(f"{function.name()}: operation not permitted when stream is capturing")
        result = function(*arguments, **options)
        changes = any(
            given.alias_info is not None and given.alias_info.is_write for given in function._schema.arguments
        )
        if changes:
            self.entries.append((function, arguments, options, None))
        elif not storages(result) & storages((arguments, options)):  # a view is the memory that it is of
            self.entries.append((function, arguments, options, result))
            self.made += [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
        return result


class FakeGraph:
    """Stands in for ``models.cuda_graph.CudaGraph``; counts what happens over all of them."""

    recorded = replayed = 0

    def __init__(self, before: "FakeGraph | None") -> None:
        self.before = before

    def run(self, compute: Callable[[], Tensor]) -> Tensor:
        with _NoWaiting():
            return compute()

    def record(self, compute: Callable[[], Tensor]) -> Tensor:
        tape = _Tape()
        capturing = torch.cuda.is_current_stream_capturing
        torch.cuda.is_current_stream_capturing = lambda: True
        try:
            with tape:
                result = compute()
        finally:
            torch.cuda.is_current_stream_capturing = capturing
        for tensor in tape.made:  # nothing was computed
            tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
        self.entries = tape.entries
        self.before = None
        type(self).recorded += 1
        return result

    def replay(self) -> None:
        with torch.autocast("cpu", enabled=False):  # whose casts were recorded
            for function, arguments, options, result in self.entries:
                new = function(*arguments, **options)
                if result is not None:
                    tree_map(lambda old, fresh: old.copy_(fresh) if isinstance(old, Tensor) else None, result, new)
        type(self).replayed += 1


class HostReads(TorchDispatchMode):
    """Names of operations that read or make tensors of the host, of a model without data (`meta`).

    To copy one to a GPU waits, or worse: the recording copies what lies there by then. ``FakeGraph`` cannot tell, for
    whom all tensors are of one device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        leaves = tree_flatten((arguments, options, result))[0]
        if any(isinstance(leaf, Tensor) and leaf.device.type == "cpu" for leaf in leaves):
            self.names.add(function.name())
        return result
