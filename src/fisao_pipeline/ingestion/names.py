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
        self._by_base: dict[str, list[str]] = {}
        self._known = set(file_names)
        for name in sorted(self._known):
            self._by_base.setdefault(PurePosixPath(name).name, []).append(name)

    def find(self, reference: str) -> list[str]:
        """Return the files that the reference may mean: one when it is clear, none when there is no such file."""
        parts = PurePosixPath(reference).parts
        if not parts or ".." in parts:
            return []
        plain = PurePosixPath(reference).as_posix()
        if plain in self._known:
            return [plain]
        candidates = self._by_base.get(parts[-1], [])
        return [name for name in candidates if _ends_alike(PurePosixPath(name).parts, parts)]


def _ends_alike(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shared = min(len(one), len(other))
    return one[-shared:] == other[-shared:]
