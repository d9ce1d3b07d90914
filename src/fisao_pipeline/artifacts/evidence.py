"""What decides what a node makes: its code, its parameters and the content of its inputs; and where two such differ."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kedro.framework import project
from kedro.io import AbstractDataset, DataCatalog, DatasetError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from fisao_pipeline.artifacts.file_memory import FileMemory
from fisao_pipeline.artifacts.node_code import PACKAGE, NodeCode
from fisao_pipeline.datasets.atomic import AtomicVersions
from fisao_pipeline.datasets.keyed_folder import KeyedFolderDataset
from fisao_pipeline.datasets.lineage import LineageDataset
from fisao_pipeline.params.flat import flatten_parameters

_MOST_CODE = 3
_MOST_CHARACTERS = 60


@dataclass(frozen=True)
class Evidence:
    """Everything that the outputs of a node depend on.

    What a node takes from memory is told by what the node before it takes: both count as one.

    Attributes:
        node: Name of the node.
        code: Hashes of module files (see `NodeCode`), and of how the nodes are wired.
        parameters: Dotted names and values of the parameters that are its inputs.
        parameter_files: Content of the files that parameters name, by the parameter.
        contents: Content of its inputs by catalog name; None where it cannot be told.
        inputs: Their versions; None for an input without versions.
    """

    node: str
    code: Mapping[str, str]
    parameters: Mapping[str, Any]
    parameter_files: Mapping[str, str]
    contents: Mapping[str, str | None]
    inputs: Mapping[str, str | None]

    @cached_property
    def fingerprint(self) -> str | None:
        """A hash of all of it but the versions; None, never the same, where an input's content cannot be told."""
        if None in self.contents.values():
            return None
        parts = [self.code, self.parameters, self.parameter_files, self.contents]
        return f"sha256:{hashlib.sha256(_text(parts).encode()).hexdigest()}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, under the names that `provenance.json` has."""
        return {
            "node": self.node,
            "inputs": dict(self.inputs),
            "input_contents": dict(self.contents),
            "parameters": dict(self.parameters),
            "parameter_files": dict(self.parameter_files),
            "code": dict(self.code),
        }

    def differences(self, record: Mapping[str, Any]) -> list[str]:
        """In words, what is not as it was when an artifact was made.

        Args:
            record: The artifact's `provenance.json`.
        """
        told = [f"nobody can tell whether input {name} changed" for name, what in self.contents.items() if what is None]
        for key, before, now in _changed(record.get("parameters"), self.parameters):
            told.append(f"parameter {key} {_short(before)} → {_short(now)}")
        for key, *_ in _changed(record.get("parameter_files"), self.parameter_files):
            told.append(f"file of parameter {key} changed")
        for name, before, now in _changed(record.get("input_contents"), self.contents):
            if now is not None:
                how = "is new" if before is _ABSENT else "is gone" if now is _ABSENT else "changed"
                told.append(f"input {name} {how}")
        code = [name.removeprefix(f"{PACKAGE}/") for name, *_ in _changed(record.get("code"), self.code)]
        if code:
            more = f" and of {len(code) - _MOST_CODE} more" if len(code) > _MOST_CODE else ""
            told.append(f"code of {', '.join(code[:_MOST_CODE])}{more} changed")
        return told


class EvidenceOf:
    """Gathers evidence for the nodes of a pipeline; what was looked at once in a run is not looked at again."""

    def __init__(self, pipeline: Pipeline, catalog: DataCatalog, memory: FileMemory) -> None:
        self._catalog, self.memory = catalog, memory
        self._code = NodeCode(memory, {PACKAGE, project.PACKAGE_NAME or PACKAGE})
        self._makers = {name: node for node in pipeline.nodes for name in node.outputs}
        self._contents: dict[str, str | None] = {}

    def forget(self, name: str) -> None:
        """Look at a dataset anew: it was saved."""
        self._contents.pop(name, None)

    def of(self, node: Node) -> Evidence:
        """The evidence for a node as things are now."""
        nodes, names = self._sources(node)
        datasets = {name: self._catalog.get(name) for name in names}
        flat = flatten_parameters({name: data.load() for name, data in datasets.items() if data and is_parameter(name)})
        read = {
            name: dataset
            for name, dataset in datasets.items()
            # Values by key are work in progress, and each is named by all that it depends on; the lineage says which
            # versions the other inputs are, not what is in them.
            if not is_parameter(name) and not isinstance(dataset, KeyedFolderDataset | LineageDataset)
        }
        live = [type(dataset) for dataset in read.values() if dataset and not isinstance(dataset, AtomicVersions)]
        wiring = {f"wiring of {each.name}": _wiring(each) for each in nodes}
        evidence = Evidence(
            node=node.name,
            code={**self._code.of([*(each.func for each in nodes), *live]), **wiring},
            parameters=json.loads(_text(flat)),
            parameter_files=dict(self._named_files(flat)),
            contents={name: self.content(name) for name in read},
            inputs={name: version_of(dataset, "resolve_load_version") for name, dataset in read.items()},
        )
        self.memory.keep()
        return evidence

    def content(self, name: str) -> str | None:
        """The content of a dataset; None where it has none to compare, or is not there."""
        if name not in self._contents:
            tell = getattr(self._catalog.get(name), "content", lambda _hash_file: None)
            try:
                self._contents[name] = tell(self.memory.sha256)
            except (DatasetError, OSError):
                self._contents[name] = None
        return self._contents[name]

    def _sources(self, node: Node) -> tuple[list[Node], list[str]]:
        """A node with those that hand it something in memory, and what all of them read that is kept."""
        nodes, names = [node], set()
        for each in nodes:  # which grows
            for name in each.inputs:
                maker = self._makers.get(name)
                if maker is None or is_kept(name, self._catalog):
                    names.add(name)
                elif maker not in nodes:
                    nodes.append(maker)
        return nodes, sorted(names)

    def _named_files(self, parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for key, value in parameters.items():
            hashes = [self.memory.sha256(Path(text)) for text in _texts(value) if os.path.isfile(text)]
            if hashes:
                yield key, ",".join(hashes)


def is_parameter(name: str) -> bool:
    """Whether a dataset's name means parameters."""
    return name == "parameters" or name.startswith("params:")


def is_kept(name: str, catalog: DataCatalog) -> bool:
    """Whether a dataset outlives the process."""
    dataset = catalog.get(name)
    return dataset is not None and not dataset._EPHEMERAL


def version_of(dataset: AbstractDataset[Any, Any] | None, resolve: str) -> str | None:
    """The version of a dataset; None when it has none, or nothing is there yet.

    Args:
        dataset: Of the catalog.
        resolve: `resolve_load_version` or `resolve_save_version`.
    """
    try:
        return getattr(dataset, resolve, lambda: None)()
    except DatasetError:
        return None


def _wiring(node: Node) -> str:
    function = getattr(node.func, "__qualname__", repr(type(node.func)))
    return f"{function}({', '.join(node.inputs)}) -> {', '.join(node.outputs)}"


_ABSENT = object()


def _changed(before: Any, now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    before = before if isinstance(before, Mapping) else {}
    for key in sorted(before.keys() | now.keys()):
        pair = before.get(key, _ABSENT), now.get(key, _ABSENT)
        if _ABSENT in pair or _text(pair[0]) != _text(pair[1]):
            yield key, *pair


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _short(value: Any) -> str:
    text = "(none)" if value is _ABSENT else _text(value)
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
