"""Why a disk did not take something, and what to do about it, whichever library tried to write."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

_ELSEWHERE = "or keep the data elsewhere (`data`, and `mlflow` where it is named, in conf/<env>/globals.yml)"
_REMEDIES = {
    errno.ENOSPC: "free some space, " + _ELSEWHERE,
    errno.EDQUOT: "free some of your quota, " + _ELSEWHERE,
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`), " + _ELSEWHERE,
    errno.EROFS: "mount it writable, " + _ELSEWHERE,
    errno.EACCES: "give this user the right to write there, " + _ELSEWHERE,
    errno.EPERM: "give this user the right to write there, " + _ELSEWHERE,
    errno.EIO: "look at the system's log, for the disk may be failing, " + _ELSEWHERE,
}
# How Rust (safetensors) and Arrow spell the number in the texts of their own exceptions.
_SPELT = re.compile(r"\b(?:os error|errno) (\d+)\b", re.IGNORECASE)


def write_failure(error: BaseException, folder: Path) -> str | None:
    """What went wrong on the disk and the remedy; None where the error, and what caused it, are of another kind.

    Args:
        error: What was raised while something was written.
        folder: Where it was to be; it need not exist.
    """
    for link in _chain(error):
        number = _error_number(link)
        if number is not None:
            remedy = _REMEDIES.get(number)
            advice = "" if remedy is None else f" To go on, {remedy}; then run the same command again."
            return f"{os.strerror(number)}{_free(folder) if number == errno.ENOSPC else ''}.{advice}"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from; libraries wrap the system's own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _error_number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    spelt = _SPELT.search(str(error))
    return int(spelt.group(1)) if spelt else None


def _free(folder: Path) -> str:
    there = next((parent for parent in (folder, *folder.parents) if parent.exists()), None)
    return "" if there is None else f" ({shutil.disk_usage(there).free / 2**20:,.0f} MiB are free)"
