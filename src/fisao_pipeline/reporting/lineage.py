"""Where a report's figures come from: the artifacts behind it, the runs that made them, and what does not agree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]
"""The content of a `provenance.json`."""


_NO_VERSION = "not versioned"


@dataclass(frozen=True)
class Lineage:
    """What a page says about how its figures came about.

    Attributes:
        artifacts: One record per version of an artifact, the newest first.
        commits: Every commit that took part, shortened, with a mark where files differed from it.
        runs: Every MLflow run that took part.
        libraries: Name to version; several versions in one text where artifacts were made with several.
        parameters: By stage, dotted names to values.
        sources: Versions of what has no record, such as the hash of a model.
        unversioned: What was read and has no version.
        warnings: What is of several runs, commits, libraries or values, in words.
        tree: How one came from the other, down to what was given, as lines of text.
    """

    artifacts: Sequence[Record] = ()
    commits: Sequence[str] = ()
    runs: Sequence[str] = ()
    libraries: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    unversioned: Sequence[str] = ()
    warnings: Sequence[str] = ()
    tree: Sequence[str] = ()


def read_lineage(records: Sequence[Record], tree: Sequence[str] = ()) -> Lineage:
    """Sum up the records of everything that a report rests on.

    Args:
        records: Of the report's inputs, of their inputs, and so on; none where nothing was recorded.
        tree: The same as a tree, in lines.
    """
    artifacts = sorted(records, key=lambda record: (record["version"], record["created"]), reverse=True)
    commits = _distinct(map(said_commit, artifacts))
    libraries = _values((record["libraries"] for record in artifacts), str)
    parameters = _values((record["parameters"] for record in artifacts), _shown)
    sources = _sources(artifacts)
    warnings = [*_not_of_one_run(artifacts)]
    if len(commits) > 1:
        warnings.append(f"Artifacts were made by {len(commits)} states of the code: {', '.join(commits)}.")
    if any("changed" in commit for commit in commits):
        warnings.append("Files differed from the commit when an artifact was made, so the commit alone does not tell.")
    for what, values in (("library", libraries), ("parameter", parameters)):
        several = {name: found for name, found in values.items() if len(found) > 1}
        warnings += [f"The {what} {name} was not always the same: {' and '.join(v)}." for name, v in several.items()]
    return Lineage(
        artifacts,
        commits,
        _distinct(record["mlflow_run_id"] for record in artifacts if record["mlflow_run_id"]),
        {name: ", ".join(found) for name, found in libraries.items()},
        _by_stage({name: " / ".join(found) for name, found in parameters.items()}),
        {name: " / ".join(found) for name, found in sources.items() if found != [_NO_VERSION]},
        [name for name, found in sources.items() if found == [_NO_VERSION]],
        warnings,
        tree,
    )


def _not_of_one_run(artifacts: Sequence[Record]) -> list[str]:
    """One artifact in two versions, or two results of one node that are not of the same run."""
    warnings = []
    versions = _values(({record["dataset"]: record["version"]} for record in artifacts), str)
    for name, found in versions.items():
        if len(found) > 1:
            warnings.append(f"The figures rest on several versions of {name}: {' and '.join(found)}.")
    nodes: dict[str, dict[str, str]] = {}
    for record in artifacts:
        nodes.setdefault(record["node"], {})[record["dataset"]] = record["version"]
    for made in nodes.values():
        if len(set(made.values())) > 1:
            listed = ", ".join(f"{name} of {version}" for name, version in made.items())
            warnings.append(f"These belong together and are not of one run: {listed}.")
    return warnings


def _sources(artifacts: Sequence[Record]) -> dict[str, list[str]]:
    """Versions of inputs that no record is of."""
    made = {record["dataset"] for record in artifacts}
    inputs = ({k: v for k, v in record["inputs"].items() if k not in made} for record in artifacts)
    return _values(inputs, lambda version: version or _NO_VERSION)


def said_commit(record: Record) -> str:
    """The state of the code that an artifact was made by, in a few words."""
    if not record["git_commit"]:
        return "outside a repository"
    return record["git_commit"][:10] + (", files changed" if record["git_dirty"] else "")


def _values(mappings: Any, show: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for mapping in mappings:
        for name, value in mapping.items():
            if show(value) not in found.setdefault(name, []):
                found[name].append(show(value))
    return dict(sorted(found.items()))


def _by_stage(parameters: Mapping[str, str]) -> dict[str, dict[str, str]]:
    stages: dict[str, dict[str, str]] = {}
    for name, value in parameters.items():
        stage, _, rest = name.partition(".")
        stages.setdefault(stage, {})[rest or stage] = value
    return stages


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(values))
