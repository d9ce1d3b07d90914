"""lmms-eval as a program of another environment: one task of one model a run."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_VERSION = "import importlib.metadata as m; print(m.version('lmms-eval'))"
# Of this environment, not of the other.
_NOT_PASSED = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_QUIET = {"WANDB_MODE": "disabled", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
# lmms-eval answers "" where a model raises, and goes on: the figures would be of those answers.
_LOST_ANSWER = re.compile(r"Error .* in generating")
_TAIL_LINES = 25
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LOG = "log.txt"


class HarnessError(RuntimeError):
    """lmms-eval is not there, or did not get to its end; the message has the end of its log."""


@dataclass(frozen=True)
class Harness:
    """How lmms-eval is run.

    Attributes:
        python: Python of its environment.
        model: Its name for the class of models.
        model_args: Arguments of that class beside the weights.
        device: Where PyTorch runs.
        include_path: Folder of task files beside its own.
        limit: Questions of each task at most; None is all.
        offline: Whether nothing may be downloaded.
        seed: Of Python, NumPy and PyTorch.
    """

    python: Path
    model: str
    model_args: Mapping[str, str]
    device: str
    include_path: Path | None
    limit: int | None
    offline: bool
    seed: int

    def version(self) -> str:
        """The version that is installed.

        Raises:
            HarnessError: It is not; the message says how to get it.
        """
        try:
            done = subprocess.run(
                [self.python, "-c", _VERSION], capture_output=True, text=True, check=True, env=self._environment()
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise HarnessError(
                f"lmms_eval.python: '{self.python}' has no lmms-eval; `make lmms-env` makes .venv-lmms, whose "
                "bin/python does"
            ) from error
        return done.stdout.strip()

    def run(self, weights: Path, task: str, output: Path) -> None:
        """Measure one task; the log is in the output folder, progress goes to the terminal.

        Args:
            weights: Folder of a whole model.
            task: As lmms-eval names it.
            output: Its content is replaced.

        Raises:
            HarnessError: lmms-eval failed, wrote no result, or lost answers.
        """
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        log = output / LOG
        command = self.command(weights, task, output)
        logger.info("lmms-eval: %s (log: %s)", task, log)
        code = _run(command, self._environment(), log)
        said = _COLOURS.sub("", log.read_text(encoding="utf-8", errors="replace"))
        lost = len(_LOST_ANSWER.findall(said))
        # It ends with 0 after an error, too.
        if code or lost or not list(output.rglob("*_results.json")):
            why = f"lost {lost} answers" if lost else f"ended with {code} and without results"
            raise HarnessError(f"lmms-eval {why}, task {task!r}. The end of {log}:\n{_tail(said)}")

    def command(self, weights: Path, task: str, output: Path) -> list[str]:
        """The command line.

        Raises:
            HarnessError: The folder's name cannot be said in lmms-eval's list of arguments.
        """
        if "," in str(weights):
            raise HarnessError(f"lmms-eval takes no path with a comma: {weights}")
        arguments = ",".join(f"{name}={value}" for name, value in {"pretrained": weights, **self.model_args}.items())
        command = [str(self.python), "-m", "lmms_eval", "--model", self.model, "--model_args", arguments]
        command += ["--tasks", task, "--batch_size", "1", "--device", self.device, "--seed", str(self.seed)]
        command += ["--output_path", str(output), "--log_samples"]
        command += ["--include_path", str(self.include_path)] if self.include_path is not None else []
        command += ["--limit", str(self.limit)] if self.limit is not None else []
        return command

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED}
        return {**kept, **_QUIET, **(_OFFLINE if self.offline else {})}


def _run(command: list[str], environment: dict[str, str], log: Path) -> int:
    """Run with all that is said in the log; of that, the bars of progress are shown as well."""
    with (
        log.open("wb") as kept,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
    ):
        assert process.stdout is not None
        try:
            while piece := process.stdout.read1():  # type: ignore[attr-defined]
                kept.write(piece)
                kept.flush()
                if b"\r" in piece or b"%|" in piece:
                    sys.stderr.write(piece.decode(errors="replace"))
                    sys.stderr.flush()
        except BaseException:
            process.terminate()
            raise
        return process.wait()


def _tail(said: str) -> str:
    lines = [line for part in said.splitlines() if (line := part.rsplit("\r", 1)[-1].rstrip())]
    return "\n".join(lines[-_TAIL_LINES:])
