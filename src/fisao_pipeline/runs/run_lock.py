"""One run at a time in a data folder: a second one is refused, with the name of the first; studies share it."""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import sys
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.hooks import hook_impl
from kedro.pipeline import Pipeline

from fisao_pipeline.artifacts.data_folder import data_folder
from fisao_pipeline.datasets.locks import SHARES_FOLDER, NoLocksError, lock_file
from fisao_pipeline.params.flat import masked

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext

logger = logging.getLogger(__name__)

LOCK_FILE = Path(".state", "run.lock")


class FolderInUseError(click.ClickException):
    """Another process is at work in the data folder; on the command line the message alone is printed."""


class RunLock:
    """The lock of a data folder, held by a process until it lets go or ends, however it ends."""

    def __init__(self, data: Path) -> None:
        """Name the data folder, which need not be there yet."""
        self._data = data

    def acquire(self, shared: bool = False) -> ExitStack:
        """Take the lock, or refuse.

        Args:
            shared: Whether others that ask for it the same way may have it too.

        Returns:
            What gives the lock back when it is closed.

        Raises:
            FolderInUseError: Another process has it; the message says which.
        """
        held, path = ExitStack(), self._data / LOCK_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = lock_file(path, shared=shared)
        except (NoLocksError, OSError) as error:
            logger.warning("'%s' cannot be locked (%s): do not start a second run in it.", self._data, error)
            return held
        if descriptor is None:
            raise FolderInUseError(self._refusal(path))
        held.callback(os.close, descriptor)
        # The file stays: one that was removed here could be locked by somebody who had opened it before.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_about_this_process()).encode(), 0)
        return held

    def _refusal(self, path: Path) -> str:
        try:
            other = json.loads(path.read_text(encoding="utf-8"))
            who = "process {pid} on {host}, since {start}: {command}".format(**other)
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
            who = "a process that has not said its name"
        return (
            f"Nothing was run: another run is at work in '{self._data}' ({who}). Wait for it or end it; or give this "
            "one a folder of its own, `data` in conf/<env>/globals.yml."
        )


class RunLockHooks:
    """Holds the lock of the data folder for as long as a run takes."""

    def __init__(self) -> None:
        self._lock: RunLock | None = None
        self._held = ExitStack()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Learn where the data folder is."""
        self._lock = RunLock(data_folder(context.config_loader, Path(context.project_path)))

    @hook_impl(tryfirst=True)  # before an MLflow run is open, which nobody would close
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        """Take the lock.

        Raises:
            FolderInUseError: Another process has it.
        """
        self._held.close()
        if self._lock is not None:
            self._held = self._lock.acquire(shared=all(SHARES_FOLDER in node.tags for node in pipeline.nodes))

    @hook_impl
    def after_session_run(self) -> None:
        """Give it back."""
        self._held.close()


def _about_this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "start": datetime.now().astimezone().isoformat(timespec="seconds"),
        # Of `python -m kedro` Kedro makes one word.
        "command": masked(f"{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}"),
    }
