"""Locks between processes that end with the process that holds them, however it ends."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Tag of nodes that tell each other which work is whose: runs of such nodes alone share a data folder.
SHARES_FOLDER = "several_processes"


class NoLocksError(RuntimeError):
    """This system has no such locks."""


def lock_file(path: Path, *, wait: bool = False, shared: bool = False) -> int | None:
    """Lock a file, which is made where there is none.

    Args:
        path: The file; its folder exists.
        wait: Whether to wait for another process to let go.
        shared: Whether others that ask for it the same way may have it too.

    Returns:
        A descriptor: the lock is held until it is closed. None when another process holds it.

    Raises:
        NoLocksError: On Windows.
        OSError: The file cannot be made, or its file system has no locks.
    """
    if fcntl is None:
        raise NoLocksError("there is no flock on this system")
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, how)
            # Whoever held it before may have removed the file: then others lock a new one, and this lock is nothing.
            if _same(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
