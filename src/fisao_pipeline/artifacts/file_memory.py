"""What was once worked out from a file, remembered by its size and time of change: looking again costs no reading."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

logger = logging.getLogger(__name__)

_SMALL = 16_384  # bytes, below which to read a file at once is faster than file_digest's large buffer
MEMORY_FILE = Path(".state", "files.sqlite")
_TABLE = (
    "CREATE TABLE IF NOT EXISTS remembered (kind TEXT, path TEXT, size INTEGER, mtime_ns INTEGER, value TEXT, "
    "PRIMARY KEY (kind, path)) WITHOUT ROWID"
)


class FileMemory:
    """Hashes and other texts that follow from a file's bytes alone, kept in a small database in the data folder.

    It may be deleted at any time, and where it cannot be written everything is worked out anew. Files inside the data
    folder are known by their place in it, so a folder that was moved with its times is still known.
    """

    def __init__(self, data: Path, recheck: bool = False) -> None:
        """Open what is remembered.

        Args:
            data: The data folder.
            recheck: Whether every file is read once, whatever its size and time tell.
        """
        self._root, self._inside = data, f"{os.path.abspath(data)}{os.sep}"
        self._known: dict[tuple[str, str], tuple[int, int, str]] | None = {} if recheck else None
        self._fresh: dict[tuple[str, str], tuple[int, int, str]] = {}

    def sha256(self, path: Path) -> str:
        """The SHA-256 of a file, hexadecimal.

        Raises:
            OSError: The file cannot be read.
        """
        return self.of("sha256", path, sha256)

    def of(self, kind: str, path: Path, work_out: Callable[[Path], str]) -> str:
        """What a function tells of a file.

        Args:
            kind: Names the function; one that tells something else needs another name.
            path: The file.
            work_out: Called when the file was changed since, or is new here.

        Raises:
            OSError: The file cannot be read.
        """
        key, found = (kind, self._name(path)), os.stat(path)
        state = (found.st_size, found.st_mtime_ns)
        known = self._remembered().get(key)
        if known is not None and known[:2] == state:
            return known[2]
        value = work_out(path)
        self._fresh[key] = self._remembered()[key] = (*state, value)
        return value

    def keep(self) -> None:
        """Write what is new into the database."""
        if not self._fresh:
            return
        fresh, self._fresh = self._fresh, {}
        rows = [(*key, *value) for key, value in sorted(fresh.items())]  # as the table is, which is faster
        try:
            (self._root / MEMORY_FILE).parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as database, database:
                database.execute(_TABLE)
                database.executemany("INSERT OR REPLACE INTO remembered VALUES (?, ?, ?, ?, ?)", rows)
        except (OSError, sqlite3.Error) as error:
            logger.debug("Hashes of files are not remembered (%s).", error)

    def _remembered(self) -> dict[tuple[str, str], tuple[int, int, str]]:
        if self._known is None:
            self._known = self._read()
        return self._known

    def _read(self) -> dict[tuple[str, str], tuple[int, int, str]]:
        if not (self._root / MEMORY_FILE).is_file():
            return {}
        try:
            with closing(self._connect()) as database:
                rows = database.execute("SELECT kind, path, size, mtime_ns, value FROM remembered")
                return {(kind, path): (size, mtime, value) for kind, path, size, mtime, value in rows}
        except sqlite3.Error as error:
            logger.debug("What was remembered of files cannot be read (%s).", error)
            return {}

    def _connect(self) -> sqlite3.Connection:
        # A connection for each use: one must not go into the processes that ParallelRunner forks.
        return sqlite3.connect(self._root / MEMORY_FILE, timeout=10)

    def _name(self, path: Path) -> str:
        return os.path.abspath(path).removeprefix(self._inside)


def sha256(path: Path) -> str:
    """The SHA-256 of a file as it is now, hexadecimal."""
    with open(path, "rb") as stream:
        head = stream.read(_SMALL)
        if len(head) < _SMALL:
            return hashlib.sha256(head).hexdigest()
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest()
