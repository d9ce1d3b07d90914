"""Tensors by name and plain values beside them in one file: safetensors, the values as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_VALUES = "values"


@dataclass(frozen=True)
class TensorFile:
    """What such a file holds.

    Attributes:
        tensors: By name, on any device; read back they are on the CPU.
        values: What JSON can express; floats come back bit for bit.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write a file; what is there is overwritten."""
        from safetensors.torch import save_file  # noqa: PLC0415 - imports torch, which reading the catalog shall not

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        save_file(tensors, path, metadata={_VALUES: json.dumps(self.values)})

    @classmethod
    def read(cls, path: Path) -> TensorFile:
        """Read a file; nothing of it stays open.

        Raises:
            ValueError: It is a safetensors file of another kind.
            safetensors.SafetensorError: It is none, or cut off.
        """
        from safetensors import safe_open  # noqa: PLC0415 - imports torch

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _VALUES not in metadata:
                raise ValueError(f"'{path}' holds tensors and no values: it was written by something else")
            # Cloned: as read they are views of the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        return cls(tensors, json.loads(metadata[_VALUES]))
