"""What a node reads, as dataset inputs of its MLflow run: by content, with the run that made it, no local paths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DataCatalog

from fisao_pipeline.artifacts.evidence import Evidence
from fisao_pipeline.artifacts.provenance import BrokenRecordError, read_record
from fisao_pipeline.datasets.atomic import AtomicVersions

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

# In place of the folders above what lies outside of the project: they are other ones elsewhere, and name users.
OUTSIDE = "…"


def digest_of(content: str) -> str:
    """What MLflow calls a dataset's digest: as much of a content's hash as it takes, without `sha256:`.

    Args:
        content: As records have it; a model's begins with what identifies its weights.
    """
    from mlflow.utils.validation import MAX_DATASET_DIGEST_SIZE  # noqa: PLC0415 - slow to import

    return content.partition(" ")[0].removeprefix("sha256:")[:MAX_DATASET_DIGEST_SIZE]


def dataset_inputs(
    evidence: Evidence, catalog: DataCatalog, readers: Mapping[str, str], project: Path
) -> list[DatasetInput]:
    """The inputs of a node whose content can be told.

    MLflow knows a dataset by name and digest, and keeps of its source what was logged first in an experiment. So the
    source is the place of all versions, and the version is a tag of the input.

    Args:
        evidence: Of the node.
        catalog: With the inputs.
        readers: By input, the nodes of the run that read it. MLflow keeps an input as it was logged first, so the one
            that reads it first is its context.
        project: The folder that sources are told from.

    Returns:
        Inputs by catalog name, with tags `mlflow.data.context`, `nodes` (all that read it), `content` (in full), and
        where they are known `version`, `path` (of that version) and `mlflow_run_id` (of the run that made it).
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag  # noqa: PLC0415 - slow to import
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT  # noqa: PLC0415
    from mlflow.utils.validation import MAX_INPUT_TAG_VALUE_SIZE  # noqa: PLC0415

    found = []
    for name, content in evidence.contents.items():
        if content is None:
            continue
        dataset, version = catalog.get(name), evidence.inputs.get(name)
        source_type, source = _source(dataset, project)
        tags = {
            MLFLOW_DATASET_CONTEXT: evidence.node,
            "nodes": readers.get(name, evidence.node),
            "content": content,
            "version": version,
            "path": _inside(dataset.version_path(version), project)
            if version and isinstance(dataset, AtomicVersions)
            else None,
            "mlflow_run_id": _maker(dataset, version, content),
        }
        known = [InputTag(key, str(value)[:MAX_INPUT_TAG_VALUE_SIZE]) for key, value in tags.items() if value]
        found.append(DatasetInput(Dataset(name, digest_of(content), source_type, json.dumps(source)), known))
    return found


def _source(dataset: AbstractDataset[Any, Any] | None, project: Path) -> tuple[str, dict[str, Any]]:
    """Where a dataset lies, in a form that `mlflow.data.get_source` reads."""
    told = dataset._describe() if dataset is not None else {}
    if told.get("hub_id"):
        return "hugging_face", {"path": told["hub_id"], "revision": told.get("revision")}
    paths = told.get("filepath") or []
    places = [_inside(Path(str(path)), project) for path in (paths if isinstance(paths, list) else [paths])]
    return "local", {"uri": ", ".join(places)}


def _inside(path: Path, project: Path) -> str:
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else f"{OUTSIDE}/{path.name}"


def _maker(dataset: AbstractDataset[Any, Any] | None, version: str | None, content: str) -> str | None:
    """The MLflow run that made an input, where its record is of this very content."""
    place = getattr(dataset, "provenance_path", lambda _version: None)(version)
    try:
        record = (read_record(place) if place is not None else None) or {}
    except BrokenRecordError:
        return None
    return record.get("mlflow_run_id") if record.get("content") == content else None
