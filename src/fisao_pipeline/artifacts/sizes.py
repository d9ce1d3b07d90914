"""What things take on the disk."""

from __future__ import annotations

import os


def bytes_below(folder: os.PathLike[str]) -> int:
    """The size of all files in a folder, in bytes."""
    with os.scandir(folder) as entries:
        return sum(
            bytes_below(entry.path)
            if entry.is_dir(follow_symlinks=False)
            else entry.stat(follow_symlinks=False).st_size
            for entry in entries
        )


def said_bytes(count: int) -> str:
    """A number of bytes, in the unit that suits it."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"
