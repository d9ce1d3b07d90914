"""Whether an artifact is what its node would make now: fresh, stale, missing, corrupt, or of unknown origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DataCatalog, DatasetError
from kedro.pipeline.node import Node

from fisao_pipeline.artifacts.evidence import Evidence, is_kept, version_of
from fisao_pipeline.artifacts.file_memory import FileMemory
from fisao_pipeline.artifacts.provenance import BrokenRecordError, read_record


class State(StrEnum):
    """What is known of an artifact."""

    FRESH = "fresh"
    STALE = "stale"
    MISSING = "missing"
    CORRUPT = "corrupt"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """A state and why.

    Attributes:
        state: The state.
        reasons: In words; none for what is fresh or missing.
        version: The version that was looked at, where there is one.
        session: The run that made it, where that is known.
        content: What was saved, where that is known and it is fresh.
    """

    state: State
    reasons: tuple[str, ...] = ()
    version: str | None = None
    session: str | None = None
    content: str | None = None

    def __str__(self) -> str:
        return self.state + (f": {'; '.join(self.reasons)}" if self.reasons else "")


def judge_node(node: Node, evidence: Evidence, catalog: DataCatalog, memory: FileMemory) -> dict[str, Verdict]:
    """A verdict on each output of a node that is kept.

    Outputs of one node belong together: where they were not made by one run, all of them are stale.

    Args:
        node: The node.
        evidence: What would decide its outputs now.
        catalog: What keeps them.
        memory: Of hashes.
    """
    verdicts = {name: judge(catalog.get(name), evidence, memory) for name in node.outputs if is_kept(name, catalog)}
    memory.keep()
    sessions = {verdict.session for verdict in verdicts.values() if verdict.state is State.FRESH}
    if len(sessions) > 1:
        reason = f"what {node.name} makes was not made by one run: {', '.join(sorted(map(str, sessions)))}"
        return {
            name: Verdict(State.STALE, (reason,), verdict.version) if verdict.state is State.FRESH else verdict
            for name, verdict in verdicts.items()
        }
    return verdicts


def judge(dataset: AbstractDataset[Any, Any] | None, evidence: Evidence, memory: FileMemory) -> Verdict:
    """A verdict on the version of a dataset that would be loaded.

    Args:
        dataset: What keeps it.
        evidence: What would decide it now.
        memory: Of hashes.
    """
    version = version_of(dataset, "resolve_load_version")
    if dataset is None or not dataset.exists():
        return Verdict(State.MISSING)
    if _place(dataset, version) is None:
        return Verdict(State.UNKNOWN, ("its dataset keeps no record",), version)
    try:
        record = intact_record(dataset, memory)
    except CorruptError as error:
        return Verdict(State.CORRUPT, (str(error),), version)
    return _compare(record, evidence, version)


class CorruptError(ValueError):
    """An artifact is not what was saved, or its record is not; the message says which."""


def intact_record(dataset: AbstractDataset[Any, Any], memory: FileMemory) -> dict[str, Any] | None:
    """The record of the version of a dataset that would be loaded, None where there is none.

    Args:
        dataset: What keeps it; there is something to load.
        memory: Of hashes.

    Raises:
        CorruptError: The record cannot be relied on, or the content is another one than it tells.
    """
    place = _place(dataset, version_of(dataset, "resolve_load_version"))
    try:
        record = read_record(place) if place is not None else None
        if record is not None and "content" in record and dataset.content(memory.sha256) != record["content"]:
            raise CorruptError("its content is not what was saved")
    except BrokenRecordError as error:
        raise CorruptError(str(error)) from error
    except (OSError, DatasetError) as error:
        raise CorruptError(f"it cannot be read ({error})") from error
    return record


def _place(dataset: AbstractDataset[Any, Any], version: str | None) -> Path | None:
    return getattr(dataset, "provenance_path", lambda _version: None)(version)


def _compare(record: Mapping[str, Any] | None, evidence: Evidence, version: str | None) -> Verdict:
    if record is None:
        return Verdict(State.UNKNOWN, ("nothing beside it says how it was made: it is kept, and made again",), version)
    if "fingerprint" not in record:
        release = (record.get("libraries") or {}).get("fisao-pipeline", "?")
        reason = f"made by release {release}, before there were fingerprints: it is kept, and made again"
        return Verdict(State.UNKNOWN, (reason,), version)
    if evidence.fingerprint is None or record["fingerprint"] != evidence.fingerprint:
        return Verdict(State.STALE, tuple(evidence.differences(record)), version)
    return Verdict(State.FRESH, (), version, record.get("kedro_session_id"), record.get("content"))
