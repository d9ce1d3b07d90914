"""Publishing a file or folder in one step: readers see the finished artifact or the one before it, never a half."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kedro.io import DatasetError

from fisao_pipeline.datasets.write_errors import write_failure

STAGING_PREFIX = ".staging-"
MANY_FILES = 100
STALE_AFTER_SECONDS = 24 * 3600
_PREVIOUS = "previous"

WriteRecord = Callable[[Path, Path], None]
"""Called with an artifact that is about to be published, and where a record of how it came about belongs."""


class VersionExistsError(DatasetError):
    """Somebody else has published this version meanwhile."""


class Recorded:
    """A dataset whose next save takes a record along: an artifact is never there without it."""

    _write_record: WriteRecord | None = None

    def record_with(self, write_record: WriteRecord) -> None:
        """Have a function called once, by the next save."""
        self._write_record = write_record

    def _record(self, artifact: Path, place: Path) -> None:
        write_record, self._write_record = self._write_record, None
        if write_record is not None:
            write_record(artifact, place)


@contextmanager
def publish_version(root: Path, version: str, name: str) -> Iterator[Path]:
    """Stage one version of a dataset and publish it when the block ends without an error.

    The block writes a file or a folder at the yielded path, which lies two levels below a hidden folder of `root`:
    neither the stdlib's glob nor one that matches hidden names can take `<root>/*/<name>` for it.

    Args:
        root: The dataset's `filepath`, the folder of its versions.
        version: The version to publish, as `<root>/<version>/<name>`.
        name: The artifact's file or folder name.

    Yields:
        The path to write to; its parent exists.

    Raises:
        DatasetError: The version exists already, or writing failed (a full disk, say). Nothing is published then.
    """
    target = root / version
    with _staging(root, name) as staging:
        staged = staging / version
        staged.mkdir()
        yield staged / name
        _sync(staged)
        try:
            os.rename(staged, target)
        except OSError as error:
            if not target.exists():
                raise
            raise VersionExistsError(
                f"Version '{version}' of '{root}' exists already and is never overwritten."
            ) from error
        _sync_folder(root)


@contextmanager
def publish_in_place(target: Path) -> Iterator[Path]:
    """Stage a file or folder without versions and put it in place of the present one when the block ends well.

    A file is replaced in one step. A folder takes two renames; killed between them, the previous content is put back
    by `restore_interrupted_swap`.

    Args:
        target: Where the artifact shall be.

    Yields:
        The path to write to; its parent exists.

    Raises:
        DatasetError: Writing failed; the present artifact is untouched.
    """
    restore_interrupted_swap(target)
    with _staging(target.parent, target.name) as staging:
        staged = staging / target.name
        yield staged
        _sync(staged)
        if target.is_dir():
            _swap_folders(staged, target, staging / _PREVIOUS)
        else:
            os.replace(staged, target)
        _sync_folder(target.parent)


def restore_interrupted_swap(target: Path) -> bool:
    """Put back a folder whose replacement was killed between its two renames.

    Returns:
        Whether there was something to put back.
    """
    if target.exists():
        return False
    for previous in sorted(target.parent.glob(f"{STAGING_PREFIX}{target.name}-*/{_PREVIOUS}")):
        os.rename(previous, target)
        return True
    return False


@contextmanager
def _staging(root: Path, name: str) -> Iterator[Path]:
    """A hidden folder of `root`, so on its file system, that is gone when the block ends."""
    staging = root / f"{STAGING_PREFIX}{name}-{uuid.uuid4().hex[:12]}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_stale(root)
        staging.mkdir()
        yield staging
    except VersionExistsError:  # which says all, and not that the disk refused
        raise
    except Exception as error:  # of any library: each has its own for a full disk
        reason = write_failure(error, root)
        if reason is None:
            raise
        raise DatasetError(f"Could not save '{name}' under '{root}': {reason} What was there is untouched.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove_stale(root: Path) -> None:
    """Remove what killed saves left behind; younger ones may belong to a save that is still running."""
    limit = time.time() - STALE_AFTER_SECONDS
    for leftover in root.glob(f"{STAGING_PREFIX}*"):
        with suppress(OSError):
            if leftover.stat().st_mtime < limit and not (leftover / _PREVIOUS).exists():
                shutil.rmtree(leftover, ignore_errors=True)


def _swap_folders(staged: Path, target: Path, previous: Path) -> None:
    os.rename(target, previous)
    try:
        os.rename(staged, target)
    except BaseException:
        os.rename(previous, target)
        raise


def _sync(path: Path) -> None:
    """Flush a file, or a folder and all in it, to the disk: a rename may reach it before the data does."""
    if not path.is_dir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    elif hasattr(os, "sync") and len(list(path.iterdir())) > MANY_FILES:
        os.sync()  # one flush of everything: thousands of pictures flushed one by one take minutes
    else:
        for child in path.iterdir():
            _sync(child)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows cannot open folders, some network file systems cannot sync them
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
