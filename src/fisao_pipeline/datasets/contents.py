"""What tells the content of one artifact or input from another: a hash over names and bytes, wherever the files are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

HashFile = Callable[[Path], str]
"""Gives the SHA-256 of a file's bytes, hexadecimal."""


def content_of(path: Path, hash_file: HashFile) -> str:
    """The content of a file, or of a folder with all that is in it.

    Raises:
        OSError: Something cannot be read, or nothing is there.
    """
    if not path.is_dir():
        return f"sha256:{hash_file(path)}"
    files = [file for file in path.rglob("*") if file.is_file()]
    return content_of_files({file.relative_to(path).as_posix(): file for file in files}, hash_file)


def content_of_files(files: Mapping[str, Path], hash_file: HashFile, settings: str = "") -> str:
    """The content of several files by name.

    Args:
        files: Paths by the name that counts; the path does not.
        hash_file: Hashes one.
        settings: What else decides what is read from them.

    Raises:
        OSError: One cannot be read.
    """
    digest = hashlib.sha256(settings.encode())
    for name in sorted(files):
        digest.update(f"{name}\0{hash_file(files[name])}\0".encode(errors="surrogateescape"))
    return f"sha256:{digest.hexdigest()}"
