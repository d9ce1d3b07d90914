"""Which file of the folder an annotation or a prompt means."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np
import pandas as pd


class ImageNames:
    """Finds files by the names that others use for them.

    Public annotation files name the bare file (``0001.jpg``) or a path from another root
    (``coco/train2017/0001.jpg``). A reference means a file when one of the two paths ends with the other, whole
    components compared, and only one file does.
    """

    def __init__(self, file_names: Iterable[str]) -> None:
        # An Arrow array, shared with the table that the names are from: as Python strings they would take thrice that.
        self._names = pd.Series(file_names, dtype="str").array
        # Rows in the order of the hashes of their base names: a dictionary of the base names of a million images would
        # take five times the memory.
        hashes = np.fromiter((hash(_base(name)) for name in self._names), dtype=np.int64, count=len(self._names))
        order = np.argsort(hashes, kind="stable")
        self._hashes = array("q", hashes[order].tobytes())
        self._rows = array("q", order.astype(np.int64).tobytes())

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, row: int) -> str:
        return self._names[row]

    def find(self, reference: str) -> list[str]:
        """Return the files that the reference may mean: one when it is clear, none when there is no such file."""
        return sorted({self._names[row] for row in self.rows(reference)})

    def rows(self, reference: str) -> list[int]:
        """Return the same files by their place in ``file_names``."""
        parts = PurePosixPath(reference).parts if "/" in reference or reference in {"", "."} else (reference,)
        if not parts or ".." in parts:
            return []
        candidates = self._rows_of_base(parts[-1])
        plain = "/".join(parts)
        if exact := [row for row in candidates if self._names[row] == plain]:
            return exact[:1]
        return [row for row in candidates if _ends_alike(tuple(self._names[row].split("/")), parts)]

    def _rows_of_base(self, base: str) -> list[int]:
        wanted = hash(base)
        first = bisect_left(self._hashes, wanted)
        last = bisect_right(self._hashes, wanted, lo=first)
        return [row for row in self._rows[first:last] if _base(self._names[row]) == base]


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _ends_alike(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shared = min(len(one), len(other))
    return one[-shared:] == other[-shared:]
