"""`python -m fisao_pipeline status`: what is fresh, stale and why, missing or corrupt, and how large it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from fisao_pipeline.artifacts.evidence import EvidenceOf, is_kept
from fisao_pipeline.artifacts.file_memory import FileMemory
from fisao_pipeline.artifacts.freshness import State, Verdict, judge_node
from fisao_pipeline.artifacts.provenance import BrokenRecordError, read_record
from fisao_pipeline.artifacts.sizes import bytes_below, said_bytes
from fisao_pipeline.datasets.atomic import PROVENANCE_FILE, AtomicVersions
from fisao_pipeline.datasets.contents import content_of
from fisao_pipeline.datasets.keyed_folder import KeyedFolderDataset


@dataclass(frozen=True)
class ArtifactStatus:
    """What is known of one artifact.

    Attributes:
        name: Catalog name.
        verdict: On the latest version.
        bytes_by_version: What each version takes on the disk, the oldest first; none for an artifact without versions.
        corrupt: Versions before the latest that are not what was saved, with the reason.
    """

    name: str
    verdict: Verdict
    bytes_by_version: dict[str, int]
    corrupt: dict[str, str]


def status_of(pipeline: Pipeline, catalog: DataCatalog, memory: FileMemory) -> list[ArtifactStatus]:
    """The status of all that a pipeline makes and keeps, in its order.

    What depends on something that is not fresh is not fresh either, though a run may find that it can be kept: where
    what it depends on is made again and comes out the same.
    """
    gather = EvidenceOf(pipeline, catalog, memory)
    verdicts: dict[str, Verdict] = {}
    for node in pipeline.nodes:
        if not any(is_kept(name, catalog) for name in node.outputs):
            continue
        evidence = gather.of(node)
        own, read = judge_node(node, evidence, catalog, memory), evidence.contents
        follows = [f"input {name} is {verdicts[name].state}" for name in read if _is_not_fresh(verdicts.get(name))]
        verdicts |= {name: _following(verdict, follows) for name, verdict in own.items()}
    statuses = [_status(name, verdict, catalog, memory) for name, verdict in verdicts.items()]
    memory.keep()
    return statuses


def _is_not_fresh(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.state is not State.FRESH


def _following(verdict: Verdict, follows: Sequence[str]) -> Verdict:
    if not follows or verdict.state not in (State.FRESH, State.STALE):
        return verdict
    return replace(verdict, state=State.STALE, reasons=(*verdict.reasons, *follows))


def _status(name: str, verdict: Verdict, catalog: DataCatalog, memory: FileMemory) -> ArtifactStatus:
    dataset = catalog.get(name)
    if not isinstance(dataset, AtomicVersions):
        return ArtifactStatus(name, verdict, {}, {})
    folder, versions = dataset.folder, dataset.versions()
    sizes = {version: bytes_below(folder / version) for version in versions}
    faults = {version: _fault(folder, version, memory) for version in versions if version != verdict.version}
    return ArtifactStatus(name, verdict, sizes, {version: fault for version, fault in faults.items() if fault})


def _fault(folder: Path, version: str, memory: FileMemory) -> str:
    """What is wrong with a version; nothing where it cannot be told, since it was made before there were hashes."""
    try:
        record = folder.joinpath(version, PROVENANCE_FILE)
        told = json.loads(memory.of("record-1", record, _content_in_record))
        place = folder.joinpath(version, folder.name)
        wrong = told["content"] is not None and content_of(place, memory.sha256) != told["content"]
        return told["fault"] or ("its content is not what was saved" if wrong else "")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"it cannot be read ({error})"


def _content_in_record(path: Path) -> str:
    try:
        return json.dumps({"content": (read_record(path) or {}).get("content"), "fault": ""})
    except BrokenRecordError as error:
        return json.dumps({"content": None, "fault": str(error)})


@dataclass(frozen=True)
class KeptValues:
    """What lies in a folder of values by key.

    Attributes:
        name: Catalog name.
        count: How many.
        bytes: What they take on the disk.
        of_unfinished_runs: Whether they are of runs that were stopped, or else a cache.
    """

    name: str
    count: int
    bytes: int
    of_unfinished_runs: bool

    def __str__(self) -> str:
        whose = " of unfinished runs" if self.of_unfinished_runs else ""
        return f"{self.name}: {self.count} value{'s' * (self.count != 1)}{whose}, {said_bytes(self.bytes)}"


def values_of(pipeline: Pipeline, catalog: DataCatalog) -> Iterator[KeptValues]:
    """The folders of values by key that a pipeline works with, by name, but for empty ones."""
    for name in sorted(pipeline.inputs()):
        dataset = catalog.get(name)
        if not isinstance(dataset, KeyedFolderDataset):
            continue
        sizes = [state.st_size for state in dataset.load().states().values()]
        if sizes:
            yield KeptValues(name, len(sizes), sum(sizes), dataset.of_unfinished_runs)


def lines_of(statuses: Sequence[ArtifactStatus], values: Iterable[KeptValues] = ()) -> Iterator[str]:
    """Statuses as text: a line for each, reasons below it, then one for each folder of values, sums at the end."""
    width = max((len(status.name) for status in statuses), default=0)
    for status in statuses:
        count, size = len(status.bytes_by_version), sum(status.bytes_by_version.values())
        kept = f"{count} version{'s' * (count != 1)}, {said_bytes(size)}" if count else ""
        yield f"{status.name:<{width}}  {status.verdict.state:<7}  {status.verdict.version or '':<24}  {kept}".rstrip()
        yield from (f"    {reason}" for reason in status.verdict.reasons)
        yield from (f"    version {version} is corrupt: {fault}" for version, fault in status.corrupt.items())
    yield from map(str, values)
    states = Counter(status.verdict.state for status in statuses)
    total = sum(sum(status.bytes_by_version.values()) for status in statuses)
    versions = sum(len(status.bytes_by_version) for status in statuses)
    counted = ", ".join(f"{states[state]} {state}" for state in State if states[state])
    yield f"{counted}; {versions} versions, {said_bytes(total)}"


@click.command()
@click.option("--env", default=None, help="The Kedro environment whose artifacts are looked at.")
@click.option("--pipelines", default="__default__", help="Whose artifacts, by name and comma.", show_default=True)
@click.option("--params", default="", help="Parameters as for `kedro run`: what would be stale with them.")
@click.option("--verify", is_flag=True, help="Read all files, whatever their sizes and times tell.")
def status(env: str | None, pipelines: str, params: str, verify: bool) -> None:
    """Tell of each artifact whether it is as a run would make it now, and what it takes on the disk."""
    from fisao_pipeline.commands.project import open_project  # noqa: PLC0415 - slow to import

    project = open_project(env, params)
    chosen = project.pipeline([name.strip() for name in pipelines.split(",")])
    statuses = status_of(chosen, project.catalog, FileMemory(project.data, recheck=verify))
    for line in lines_of(statuses, values_of(chosen, project.catalog)):
        click.echo(line)
