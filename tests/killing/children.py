"""Stages run in forks of a process that has imported everything; they end as told: whole, killed, on a failing disk."""

import errno
import importlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}
DISK = {"disk full": errno.ENOSPC, "IO error": errno.EIO, "read-only": errno.EROFS}
KINDS = (*SIGNALS, *DISK)
# What a save does last, and what it cannot do without.
CALLS = ("fsync", "rename", "replace", "mkdir")


@dataclass(frozen=True)
class Fate:
    """How a run ends: by a signal once it has used so many seconds of CPU, or by a disk that fails at the n-th call."""

    kind: str
    cpu_seconds: float = 0.0
    call: int = 0


@dataclass(frozen=True)
class Ended:
    """How it did end."""

    code: int
    cpu_seconds: float
    calls: int
    struck: bool


def import_what_a_run_imports(log: Path) -> None:
    """Import in this process what a fork had imported when it was done: seconds that later forks need not spend.

    Imported, not run: connections and threads are nothing to be shared by forks.
    """
    for name in log.with_suffix(".modules").read_text().split():
        with suppress(Exception):  # names that are no modules of their own
            importlib.import_module(name)


def run_stage(
    root: Path,
    stage: str,
    parameters: dict[str, Any],
    log: Path,
    fate: Fate | None = None,
    tags: list[str] | None = None,
) -> Ended:
    """Run one pipeline of a project in a fork and see to its fate."""
    calls_file = log.with_suffix(".calls")
    pid = os.fork()
    if pid == 0:
        _in_child(lambda: _session(root, stage, parameters, tags), log, calls_file, fate)
    struck = False
    used = 0.0
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        used = _cpu_seconds(pid) or used
        if fate is not None and fate.kind in SIGNALS and not struck and used >= fate.cpu_seconds:
            time.sleep(random.random() * 0.02)  # what waits for the disk uses no CPU
            os.kill(pid, SIGNALS[fate.kind])
            struck = True
        time.sleep(0.003)
    code = os.waitstatus_to_exitcode(status)
    calls = int(calls_file.read_text()) if calls_file.exists() else 0
    return Ended(code, used, calls, (struck or (fate is not None and fate.kind in DISK)) and code != 0)


def _session(root: Path, stage: str, parameters: dict[str, Any], tags: list[str] | None) -> None:
    from kedro.framework.project import settings
    from kedro.framework.startup import bootstrap_project

    os.chdir(root)
    bootstrap_project(root)
    with settings.SESSION_CLASS.create(project_path=root, env="smoke", runtime_params=parameters) as session:
        session.run(pipeline_names=[stage], tags=tags)


def _in_child(work: Callable[[], None], log: Path, calls_file: Path, fate: Fate | None) -> None:
    """Never returns."""
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        counted = _failing_disk(fate)
        work()
        calls_file.write_text(str(counted[0]))
        log.with_suffix(".modules").write_text("\n".join(list(sys.modules)))
        code = 0
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _failing_disk(fate: Fate | None) -> list[int]:
    """Count the calls that saves are made of; from the n-th on they fail, or with an IO error it alone."""
    counted = [0]
    number = DISK.get(fate.kind) if fate is not None else None

    def watched(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            counted[0] += 1
            if number is not None and (counted[0] == fate.call if number == errno.EIO else counted[0] >= fate.call):
                raise OSError(number, os.strerror(number), *map(str, arguments[:1]))
            return real(*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, watched(name))
    return counted


def _cpu_seconds(pid: int) -> float | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / TICKS
