"""Which file of the folder an annotation or a prompt means."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath


class ImageNames:
    """Finds files by the names that others use for them.

    Public annotation files name the bare file (``0001.jpg``) or a path from another root
    (``coco/train2017/0001.jpg``). A reference means a file when one of the two paths ends with the other, whole
    components compared, and only one file does.
    """

    def __init__(self, file_names: Iterable[str]) -> None:
        self._names = list(file_names)
        # Nearly every base name is of one file: a list for each would double the memory of a million names.
        self._by_base: dict[str, int | list[int]] = {}
        for row, name in enumerate(self._names):
            base = name.rpartition("/")[2]
            known = self._by_base.get(base)
            if known is None:
                self._by_base[base] = row
            elif isinstance(known, list):
                known.append(row)
            else:
                self._by_base[base] = [known, row]

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
        known = self._by_base.get(parts[-1], [])
        candidates = known if isinstance(known, list) else [known]
        plain = "/".join(parts)
        if exact := [row for row in candidates if self._names[row] == plain]:
            return exact[:1]
        return [row for row in candidates if _ends_alike(tuple(self._names[row].split("/")), parts)]


def _ends_alike(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shared = min(len(one), len(other))
    return one[-shared:] == other[-shared:]
