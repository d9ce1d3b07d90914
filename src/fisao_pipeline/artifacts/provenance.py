"""How an artifact came about, as data: code, settings, inputs and libraries, written beside it as `provenance.json`."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisao_pipeline.libraries import library_versions

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from fisao_pipeline.artifacts.evidence import Evidence


# The package that is imported. Installed as a release, it is told by its version.
CODE = Path(__file__).resolve().parents[1]
_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class RunContext:
    """What all artifacts of one run share.

    Attributes:
        kedro_session_id: The session, which is also the version of everything it saves.
        mlflow_run_id: The MLflow run, None when tracking is off.
        tracking_uri: Where that run is recorded.
        git_commit: Full commit id, None outside a repository.
        git_dirty: Whether tracked or new files differed from the commit, or the code was of another place.
        environment: The Kedro environment, `local` where none was named.
    """

    kedro_session_id: str
    mlflow_run_id: str | None = None
    tracking_uri: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    environment: str | None = None


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """The commit that is checked out in a folder and whether files differ from it; (None, None) without git.

    They do where this package is neither of that checkout nor installed: then the commit does not tell the code.
    """
    try:
        commit, top = _git(folder, "rev-parse", "HEAD", "--show-toplevel").splitlines()
        status = _git(folder, "status", "--porcelain")
    except (OSError, subprocess.SubprocessError, ValueError):
        return None, None
    return commit, bool(status) or _is_from_elsewhere(Path(top))


def foreign_code(folder: Path) -> Path | None:
    """Where the code of this package is, if that is neither installed nor of the checkout that a folder is in."""
    try:
        top = _git(folder, "rev-parse", "--show-toplevel")
    except (OSError, subprocess.SubprocessError):
        return None
    return CODE if _is_from_elsewhere(Path(top)) else None


def _is_from_elsewhere(checkout: Path) -> bool:
    is_installed = not _INSTALLED.isdisjoint(CODE.parts)
    return not is_installed and not CODE.is_relative_to(checkout.resolve())


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def build_record(
    run: RunContext, evidence: Evidence, *, dataset: str, version: str, content: str, seconds: float | None = None
) -> dict[str, Any]:
    """The content of `provenance.json`.

    Args:
        run: What the run's artifacts share.
        evidence: What decided the artifact.
        dataset: Catalog name of the artifact.
        version: Its version.
        content: What tells it from any other content.
        seconds: How long its node took up to here, loading left out.
    """
    shared = asdict(run)
    shared.pop("tracking_uri")
    record = {
        "dataset": dataset,
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **shared,
        "content": content,
        "fingerprint": evidence.fingerprint,
        **evidence.to_dict(),
        "libraries": library_versions(),
        **machine(),
        "seconds": None if seconds is None else round(seconds, 3),
        "peak_memory_bytes": peak_memory(),
    }
    return {**record, "seal": seal(record)}


def seal(record: Mapping[str, Any]) -> str:
    """A hash of all else in a record, which tells an edited one. Who means to deceive can make it anew."""
    rest = {key: value for key, value in record.items() if key != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class BrokenRecordError(ValueError):
    """A `provenance.json` that nobody can rely on; the message says what is wrong with it."""


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of an artifact, None when there is none.

    One of an earlier release has no `fingerprint`, and no seal.

    Raises:
        BrokenRecordError: It cannot be read, is no record, or was edited.
    """
    try:
        record = json.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BrokenRecordError(f"{path.name} cannot be read ({type(error).__name__})") from error
    if not isinstance(record, dict) or not isinstance(record.get("inputs"), dict):
        raise BrokenRecordError(f"{path.name} is no record of an artifact")
    if ("fingerprint" in record or "seal" in record) and record.get("seal") != seal(record):
        raise BrokenRecordError(f"{path.name} was edited")
    return record


def machine() -> dict[str, Any]:
    """What rounding depends on beside code and libraries: `device` and `threads`, null as long as torch is not loaded.

    `device` is the GPU that this process computes on, or `CPU` and the instructions that torch takes there.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {"device": None, "threads": None}
    if torch.cuda.is_initialized():
        device = torch.cuda.get_device_name()
    else:
        device = f"CPU {torch.backends.cpu.get_cpu_capability()}"
    return {"device": device, "threads": torch.get_num_threads()}


def peak_memory() -> dict[str, int]:
    """The most memory that this process has held so far: of the machine's under `process`, of the GPU's under `gpu`."""
    peak: dict[str, int] = {}
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        peak["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        peak["gpu"] = torch.cuda.max_memory_allocated()
    return peak


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
