"""How an artifact came about, as data: code, settings, inputs and libraries, written beside it as `provenance.json`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fisao_pipeline import __version__

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "numpy", "pandas", "kedro", "kedro-mlflow", "mlflow")


@dataclass(frozen=True)
class RunContext:
    """What all artifacts of one run share.

    Attributes:
        kedro_session_id: The session, which is also the version of everything it saves.
        mlflow_run_id: The MLflow run, None when tracking is off.
        tracking_uri: Where that run is recorded.
        git_commit: Full commit id, None outside a repository.
        git_dirty: Whether tracked or new files differed from the commit.
    """

    kedro_session_id: str
    mlflow_run_id: str | None = None
    tracking_uri: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """The commit that is checked out in a folder and whether files differ from it; (None, None) without git."""
    try:
        commit, status = (_git(folder, *command) for command in (("rev-parse", "HEAD"), ("status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(status)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


@cache
def library_versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that results depend on."""
    versions = {"fisao-pipeline": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def flatten_parameters(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Spell a node's parameters as dotted keys with plain values, `ppo.clip_range` for instance.

    Args:
        inputs: A node's inputs by name; only those named `params:…` and `parameters` are looked at. Values are
            numbers, texts, lists, dicts or Pydantic models, nested as they come.

    Returns:
        One entry per leaf; a list is one leaf.
    """
    flat: dict[str, Any] = {}
    for name, value in inputs.items():
        if name == "parameters" or name.startswith("params:"):
            flat.update(_flatten(name.removeprefix("params:") if name != "parameters" else "", value))
    return flat


def _flatten(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if not isinstance(value, Mapping):
        return [(key, value)]
    return [pair for name, item in value.items() for pair in _flatten(f"{key}.{name}" if key else str(name), item)]


def build_record(
    run: RunContext,
    *,
    dataset: str,
    version: str,
    node: str,
    inputs: Mapping[str, str | None],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `provenance.json`.

    Args:
        run: What the run's artifacts share.
        dataset: Catalog name of the artifact.
        version: Its version.
        node: The node that made it.
        inputs: Versions of that node's inputs by catalog name; None for an input without versions.
        parameters: That node's flattened parameters.
    """
    shared = asdict(run)
    shared.pop("tracking_uri")
    return {
        "dataset": dataset,
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **shared,
        "node": node,
        "inputs": dict(inputs),
        "parameters": dict(parameters),
        "libraries": library_versions(),
    }


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step, so that a reader or a crash never meets half of it."""
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, default=str)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
