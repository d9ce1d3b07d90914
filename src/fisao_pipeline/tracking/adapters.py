"""A trained adapter in MLflow: a logged model of the run, with its files, and a version in the model registry.

Both are known by the adapter's content: what is there already is not made twice, by a run that is repeated, by one that
makes the same adapter again, or by a delivery that was cut off.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisao_pipeline.datasets.adapter_folder import CONFIG_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

MODEL_TYPE = "adapter"
CONTENT_TAG, COMMAND_TAG, REGISTERED_TAG = "content", "lineage", "registered_model"
LINEAGE_FILE = "lineage.json"
BASE_MODEL = "{base_model}"
_NOT_IN_A_NAME = re.compile(r"[^\w.-]+")


def log_adapter(
    client: MlflowClient,
    run_id: str,
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    *,
    registered_model: str | None,
    weights: bool,
) -> None:
    """Make an adapter a model that a run has put out, and register it.

    Args:
        client: Of the store that the run is in.
        run_id: Of the run.
        folder: The adapter, as `PeftModel.from_pretrained` opens it.
        records: `provenance.json` of the adapter, then of all that it was made from.
        registered_model: Name in the registry, in which `{base_model}` is replaced; None registers nothing.
        weights: Whether the tensors are copied to MLflow, and not the rest of the folder alone.

    Raises:
        Exception: Whatever MLflow raises; what it has taken until then stays.
    """
    record = records[0]
    tags = _tags(record)
    name = {REGISTERED_TAG: _registered_name(registered_model, folder)} if registered_model is not None else {}
    model = find_adapter(client, run_id, tags[CONTENT_TAG])
    if model is None:
        experiment = client.get_run(run_id).info.experiment_id
        model = client.create_logged_model(
            experiment, record["dataset"].replace(".", "_"), run_id, tags | name, model_type=MODEL_TYPE
        )
        with tempfile.TemporaryDirectory() as written:
            lineage = Path(written, LINEAGE_FILE)
            lineage.write_text(json.dumps(list(records), indent=2, default=str), encoding="utf-8")
            files = [file for file in sorted(folder.iterdir()) if weights or file.name != WEIGHTS_FILE]
            put_files(client, model, [*files, lineage])
    elif not name.items() <= model.tags.items():
        client.set_logged_model_tags(model.model_id, name)
        model = client.get_logged_model(model.model_id)
    put_out(client, run_id, model)
    register(client, model, run_id)


def copy_adapter(here: MlflowClient, there: MlflowClient, model_id: str, there_run_id: str) -> str | None:
    """Have an adapter of a run here be a model there, with its files, where there is none of its content yet.

    Args:
        here: Of the store that it is in.
        there: Of the other store.
        model_id: Of the model here.
        there_run_id: Of the run there that it is made in, if it is made.

    Returns:
        Its id there; None for a model that is no adapter of this project.
    """
    from mlflow.artifacts import download_artifacts  # noqa: PLC0415 - slow to import

    model = here.get_logged_model(model_id)
    if model.model_type != MODEL_TYPE or CONTENT_TAG not in model.tags:
        return None
    found = find_adapter(there, there_run_id, model.tags[CONTENT_TAG])
    if found is None:
        tags = {key: value for key, value in model.tags.items() if not key.startswith("mlflow.")}
        experiment = there.get_run(there_run_id).info.experiment_id
        found = there.create_logged_model(experiment, model.name, there_run_id, tags, model_type=MODEL_TYPE)
        # They lie on this disk, so this copies nothing and says where.
        put_files(there, found, sorted(Path(download_artifacts(artifact_uri=model.artifact_location)).iterdir()))
    return found.model_id


def find_adapter(client: MlflowClient, run_id: str, content: str) -> LoggedModel | None:
    """The model of an adapter of this content, in the experiment of a run."""
    return find_model(client, client.get_run(run_id).info.experiment_id, CONTENT_TAG, content)


def find_model(client: MlflowClient, experiment: str, tag: str, value: str) -> LoggedModel | None:
    """The model of an experiment that has all of its files and this tag."""
    quoted = value.replace("'", "")
    for model in client.search_logged_models([experiment], f"tags.`{tag}` = '{quoted}'"):
        if model.status == "READY":
            return model
    return None


def put_files(client: MlflowClient, model: LoggedModel, files: Sequence[Path]) -> None:
    """Copy files into a model and call it ready; one that did not get all of them is called failed.

    Raises:
        Exception: A file could not be copied.
    """
    try:
        for file in files:
            client.log_model_artifact(model.model_id, str(file))
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")


def put_out(client: MlflowClient, run_id: str, model: LoggedModel) -> None:
    """Make a model an output of a run, once."""
    from mlflow.entities import LoggedModelOutput  # noqa: PLC0415 - slow to import

    outputs = client.get_run(run_id).outputs
    known = {each.model_id for each in outputs.model_outputs} if outputs is not None else set()
    if model.model_id not in known:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])


def register(client: MlflowClient, model: LoggedModel, run_id: str) -> ModelVersion | None:
    """A version of the registered model that a model's tags name, where there is none of its content yet.

    Returns:
        The new version, if one was made.
    """
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - slow to import
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS  # noqa: PLC0415

    name, content = model.tags.get(REGISTERED_TAG), model.tags[CONTENT_TAG]
    if name is None or client.search_model_versions(f"name = '{name}' and tags.`{CONTENT_TAG}` = '{content}'"):
        return None
    try:
        client.create_registered_model(name, description="LoRA adapters, one version for each that differs.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {key: value for key, value in model.tags.items() if not key.startswith("mlflow.") and key != REGISTERED_TAG}
    version = client.create_model_version(
        name,
        model.artifact_location,  # `models:/…` is looked up by MLflow's global client, which may be of another store
        run_id,
        tags,
        description=f"{tags['artifact']}@{tags['version']}. What it came from: `{tags[COMMAND_TAG]}`",
        await_creation_for=0,
        model_id=model.model_id,
    )
    # As `mlflow.register_model` does, which prints: the model's page links to its version by it.
    linked = json.dumps([{"name": name, "version": version.version}])
    client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: linked})
    return version


def _tags(record: Mapping[str, Any]) -> dict[str, str]:
    artifact = f"{record['dataset']}@{record['version']}"
    environment = record.get("environment")
    command = f"python -m fisao_pipeline lineage {artifact}" + (f" --env={environment}" if environment else "")
    told = {
        "artifact": record["dataset"],
        "version": record["version"],
        CONTENT_TAG: record["content"],
        COMMAND_TAG: command,
        "environment": environment,
        "git_commit": record.get("git_commit"),
        "git_dirty": str(record["git_dirty"]).lower() if record.get("git_dirty") is not None else None,
    }
    return {key: str(value) for key, value in told.items() if value is not None}


def _registered_name(pattern: str, folder: Path) -> str:
    """A name that the registry takes; of a base model that is a path or an id on the hub the last part."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    base = re.split(r"[/\\]", str(config.get("base_model_name_or_path") or "unknown").rstrip("/\\"))[-1]
    return _NOT_IN_A_NAME.sub("-", pattern.replace(BASE_MODEL, base))
