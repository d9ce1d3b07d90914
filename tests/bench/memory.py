"""How many bytes of tensors a run holds at most."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


def peak_tensor_bytes(run: Callable[[], Any]) -> int:
    """The most bytes of tensors that a run held at once above what was there before it.

    Every storage that an operation makes counts until nothing refers to it, backward passes included; what a kernel
    uses and gives back by itself does not.
    """
    with _Held() as held:
        run()
    return held.most


class _Held(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Weights and inputs were there: views of them are nothing new.
        for tensor in _tensors((args, kwargs)):
            self._known.setdefault(tensor.untyped_storage(), True)
        made = func(*args, **(kwargs or {}))
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known[storage] = True
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return made

    def _change(self, by: int) -> None:
        self.now += by
        self.most = max(self.most, self.now)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]
