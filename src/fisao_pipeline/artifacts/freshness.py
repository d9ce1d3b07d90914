"""Whether an artifact is what its node would make now: fresh, stale, missing, corrupt, or of unknown origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kedro.io import AbstractDataset, DataCatalog, DatasetError
from kedro.pipeline.node import Node

from fisao_pipeline.artifacts.evidence import Evidence, EvidenceOf, is_kept, version_of
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
    """

    state: State
    reasons: tuple[str, ...] = ()
    version: str | None = None
    session: str | None = None

    def __str__(self) -> str:
        return self.state + (f": {'; '.join(self.reasons)}" if self.reasons else "")


def judge_node(node: Node, catalog: DataCatalog, gather: EvidenceOf) -> dict[str, Verdict]:
    """A verdict on each output of a node that is kept.

    Outputs of one node belong together: where they were not made by one run, all of them are stale.
    """
    evidence = gather.of(node)
    verdicts = {
        name: judge(catalog.get(name), evidence, gather.memory) for name in node.outputs if is_kept(name, catalog)
    }
    gather.memory.keep()
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
    place = getattr(dataset, "provenance_path", lambda _version: None)(version)
    if place is None:
        return Verdict(State.UNKNOWN, ("its dataset keeps no record",), version)
    try:
        record = read_record(place)
        if record is not None and "content" in record and dataset.content(memory.sha256) != record["content"]:
            return Verdict(State.CORRUPT, ("its content is not what was saved",), version)
    except BrokenRecordError as error:
        return Verdict(State.CORRUPT, (str(error),), version)
    except (OSError, DatasetError) as error:
        return Verdict(State.CORRUPT, (f"it cannot be read ({error})",), version)
    return _compare(record, evidence, version)


def _compare(record: Mapping[str, Any] | None, evidence: Evidence, version: str | None) -> Verdict:
    if record is None:
        return Verdict(State.UNKNOWN, ("nothing beside it says how it was made: it is kept, and made again",), version)
    if "fingerprint" not in record:
        release = (record.get("libraries") or {}).get("fisao-pipeline", "?")
        reason = f"made by release {release}, before there were fingerprints: it is kept, and made again"
        return Verdict(State.UNKNOWN, (reason,), version)
    if evidence.fingerprint is None or record["fingerprint"] != evidence.fingerprint:
        return Verdict(State.STALE, tuple(evidence.differences(record)), version)
    return Verdict(State.FRESH, (), version, record.get("kedro_session_id"))
