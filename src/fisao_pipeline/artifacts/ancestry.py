"""Everything that artifacts came about from, read from the records beside them: the one walk along them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kedro.io import AbstractDataset, DataCatalog

from fisao_pipeline.artifacts.provenance import BrokenRecordError, read_record
from fisao_pipeline.datasets.atomic import AtomicVersions

Version = tuple[str, str]
"""An artifact's catalog name and a version."""


@dataclass(frozen=True)
class Ancestor:
    """A version of something, and what is known of how it came about.

    Attributes:
        name: Catalog name.
        version: The version.
        record: Its `provenance.json`; None for what a run was given, such as a model, and where there is a fault.
        fault: Why nobody can tell how it was made; empty for what needs no telling.
    """

    name: str
    version: str
    record: Mapping[str, Any] | None = None
    fault: str = ""


def ancestry(catalog: DataCatalog, versions: Iterable[Version]) -> dict[Version, Ancestor]:
    """These versions, what they were made from, and so on, each once.

    What has no version (a folder of images, an annotation file) is not among them: the records of what was made from
    it tell its content.
    """
    found: dict[Version, Ancestor] = {}
    waiting = list(versions)
    while waiting:
        name, version = waiting.pop()
        if (name, version) not in found:
            ancestor = found[name, version] = _look(catalog.get(name), name, version)
            inputs = ancestor.record["inputs"] if ancestor.record is not None else {}
            waiting += [pair for pair in inputs.items() if pair[1] is not None]
    return found


def _look(dataset: AbstractDataset[Any, Any] | None, name: str, version: str) -> Ancestor:
    if dataset is None:
        return Ancestor(name, version, fault="the catalog has no such entry any more")
    if isinstance(dataset, AtomicVersions) and not dataset.version_path(version).exists():
        return Ancestor(name, version, fault="is gone: it was pruned or deleted")
    place = getattr(dataset, "provenance_path", lambda _version: None)(version)
    try:
        record = read_record(place) if place is not None else None
    except BrokenRecordError as error:
        return Ancestor(name, version, fault=str(error))
    if record is None and isinstance(dataset, AtomicVersions):
        return Ancestor(name, version, fault="nothing beside it says how it was made")
    # A model's folder keeps one version and one record, which may be of another by now. Its content begins with what
    # identifies it; a record of before there were contents is taken at its word.
    there = str(record.get("content", version)).partition(" ")[0] if record is not None else version
    if not isinstance(dataset, AtomicVersions) and there != version:
        return Ancestor(name, version, fault=f"was replaced: there is {there} now")
    return Ancestor(name, version, record)
