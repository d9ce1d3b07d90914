"""What a run needs, looked at before its first node: a misspelt block or a missing input costs seconds, not hours."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from importlib import import_module
from itertools import chain, count
from pathlib import Path
from typing import Any

import click
from kedro.framework import project
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import AbstractDataset, DataCatalog, DatasetError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from pydantic import ValidationError

from fisao_pipeline.artifacts.data_folder import data_folder
from fisao_pipeline.artifacts.evidence import version_of
from fisao_pipeline.artifacts.file_memory import FileMemory
from fisao_pipeline.artifacts.freshness import CorruptError, intact_record
from fisao_pipeline.datasets.atomic import AtomicVersions
from fisao_pipeline.datasets.image_folder import ImageFolderDataset
from fisao_pipeline.datasets.json_files import JsonFilesDataset
from fisao_pipeline.datasets.keyed_folder import KeyedFolderDataset
from fisao_pipeline.datasets.model_folder import ModelFolderDataset
from fisao_pipeline.datasets.saved_dataset import SavedImagesDataset, SavedPromptsDataset
from fisao_pipeline.models.known_kinds import unusable
from fisao_pipeline.models.source import incomplete
from fisao_pipeline.params.across_stages import comparison_faults
from fisao_pipeline.params.base import StageParams
from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.params.score_predictions import ScorePredictionsParams
from fisao_pipeline.runs.determinism import determinism_fault, is_deterministic
from fisao_pipeline.runs.gone_images import gone_before_node, shows_images_to_a_model
from fisao_pipeline.runs.resume import stage_command
from fisao_pipeline.suggestions import did_you_mean

logger = logging.getLogger(__name__)

# Blocks of parameters that hooks read and no node.
HOOKS_BLOCKS = {"runtime"}
# What a user may have to bring, and what says itself how to get it.
_Brought = ModelFolderDataset | ImageFolderDataset | JsonFilesDataset | SavedImagesDataset | SavedPromptsDataset
_SCORING = "params:score_predictions"


class NotReadyError(click.ClickException):
    """A run cannot start; on the command line the message alone is printed."""


class PreflightHooks:
    """Refuses a run whose parameters hold unknown blocks or whose inputs are not there, or not what was saved."""

    def __init__(self) -> None:
        self._data = Path.cwd() / "data"
        self._run_params: dict[str, Any] = {}
        self._pipeline, self._images_sought = Pipeline([]), False

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Learn where the data folder is, in which hashes of files are remembered."""
        self._data = data_folder(context.config_loader, Path(context.project_path))

    @hook_impl(tryfirst=True)  # before an MLflow run is open, which nobody would close
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Look at parameters and inputs.

        Raises:
            NotReadyError: Something is wrong; all of it is listed.
        """
        self._run_params, self._pipeline, self._images_sought = run_params, pipeline, False
        registered = registered_pipelines()
        faults = [*_unknown_blocks(catalog, registered.values()), *_runtime_faults(catalog)]
        faults += _later_versions(run_params["run_id"], pipeline, catalog)
        # Kedro leaves out nodes whose outputs exist, and what only those read need not be there.
        if not run_params.get("only_missing_outputs"):
            faults += _nothing_to_compare(pipeline, catalog)
            faults += missing_inputs(run_params, pipeline, catalog, registered)
            faults += _unusable_models(pipeline, catalog)
        faults += corrupt_inputs(run_params, pipeline, catalog, registered, FileMemory(self._data))
        faults += _missing_predictions(pipeline, catalog)
        if faults:
            raise NotReadyError("Nothing was run:\n" + "\n".join(f"- {fault}" for fault in faults))
        warn_of_unpinned(pipeline.inputs(), catalog, run_params.get("env"))

    @hook_impl
    def before_node_run(self, node: Node, catalog: DataCatalog, inputs: dict[str, Any]) -> None:
        """Look, once in a run, for the images that its models will be shown.

        Not before the pipeline: which nodes are fresh is decided when it is their turn, and a run of fresh ones alone
        neither lists a folder of a million files for it nor needs the images.

        Raises:
            NotReadyError: Some are gone; no model was loaded yet.
        """
        if self._images_sought or not shows_images_to_a_model(node):
            return
        self._images_sought = True
        fault = gone_before_node(node, self._pipeline.nodes, inputs, catalog, self._run_params)
        if fault is not None:
            raise NotReadyError(f"{node.name} was not run: {fault}.")


def warn_of_unpinned(names: Iterable[str], catalog: DataCatalog, env: str | None) -> None:
    """Say which hub models of a run follow a branch or tag: the same command may use other weights tomorrow."""
    for name in sorted(names):
        dataset = None if name.startswith("params:") else catalog.get(name)
        if isinstance(dataset, ModelFolderDataset) and dataset.unpinned is not None:
            logger.warning(
                "'%s' is not pinned: '%s' follows %s, which may change. `python -m fisao_pipeline pin%s` writes the "
                "commit that was downloaded into its catalog entry.",
                name,
                dataset.source.path_or_id,
                dataset.unpinned,
                f" --env={env}" if env else "",
            )


def _missing_predictions(pipeline: Pipeline, catalog: DataCatalog) -> list[str]:
    """What `score_predictions` names in its parameters and is not there."""
    dataset = catalog.get(_SCORING) if _SCORING in pipeline.inputs() else None
    if dataset is None:
        return []
    block = dataset.load()
    params = block if isinstance(block, ScorePredictionsParams) else ScorePredictionsParams(**block)
    if not params.benchmarks():
        return [
            "no benchmark of score_predictions has predictions: give, for instance, "
            "`--params=score_predictions.chair.predictions=FILE,score_predictions.chair.instances=FILE`"
        ]
    return [f"{name}: there is no file '{path}'" for name, path in params.files().items() if not Path(path).is_file()]


def registered_pipelines() -> dict[str, Pipeline]:
    """All pipelines by name; Kedro's own mapping holds only those that this run asked for."""
    if project.PACKAGE_NAME is None:
        return {}
    return import_module(f"{project.PACKAGE_NAME}.pipeline_registry").register_pipelines()


def _unknown_blocks(catalog: DataCatalog, pipelines: Iterable[Pipeline]) -> list[str]:
    inputs = {name for pipeline in pipelines for node in pipeline.nodes for name in node.inputs}
    parameters = catalog.get("parameters")
    if parameters is None or "parameters" in inputs or not inputs:
        return []
    blocks = {name.removeprefix("params:").split(".")[0] for name in inputs if name.startswith("params:")}
    known = sorted(blocks | HOOKS_BLOCKS)
    return [
        f"there is no block of parameters '{name}'{did_you_mean(name, known)} (there are {', '.join(known)})"
        for name in map(str, parameters.load())
        if name not in known and not name.startswith("_")
    ]


def _later_versions(run_id: str, pipeline: Pipeline, catalog: DataCatalog) -> list[str]:
    """Versions that a new one would sort before, and so not be the latest: a clock was wrong, now or then."""
    faults = []
    for name in sorted(pipeline.all_outputs()):
        dataset = catalog.get(name)
        versions = dataset.versions() if isinstance(dataset, AtomicVersions) else []
        if versions and versions[-1] > run_id:
            faults.append(
                f"'{name}' has a version {versions[-1]}, later than this run's {run_id}, which would not become the "
                f"latest. Set this machine's clock right; or, if it was wrong then, move that version away from "
                f"'{dataset.folder}'"
            )
    return faults


def _runtime_faults(catalog: DataCatalog) -> list[str]:
    try:
        fault = determinism_fault() if is_deterministic(catalog) else None
    except ValidationError as error:
        return [f"runtime.{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    return [fault] if fault is not None else []


def _nothing_to_compare(pipeline: Pipeline, catalog: DataCatalog) -> list[str]:
    """Faults across the stages' blocks, of those that this run reads; a study looks at each of its arms itself."""
    stages: dict[str, type[StageParams]] = {
        "response_sampling": ResponseSamplingParams,
        "reward_annotation": RewardAnnotationParams,
        "policy_training": PolicyTrainingParams,
    }
    read = {name for node in pipeline.nodes if node.tags & stages.keys() for name in node.inputs}
    blocks: dict[str, Any] = {
        name: model.model_validate(catalog.load(f"params:{name}"))
        for name, model in stages.items()
        if f"params:{name}" in read
    }
    if "response_sampling" not in blocks:
        return []
    return comparison_faults(
        blocks["response_sampling"], blocks.get("reward_annotation"), blocks.get("policy_training")
    )


def missing_inputs(
    run_params: Mapping[str, Any], pipeline: Pipeline, catalog: DataCatalog, registered: Mapping[str, Pipeline]
) -> list[str]:
    """What a pipeline reads and is not there, in words that say how to get it.

    Args:
        run_params: What Kedro hands to its pipeline hooks; the commands in the answer have its settings.
        pipeline: What would be run.
        catalog: Of that run.
        registered: All pipelines by name.
    """
    faults: list[str] = []
    to_make: dict[str, list[str]] = {}
    pinned = run_params.get("load_versions") or {}
    for name in sorted(pipeline.inputs()):
        dataset = None if name == "parameters" or name.startswith("params:") else catalog.get(name)
        if dataset is None or dataset._EPHEMERAL or isinstance(dataset, KeyedFolderDataset):
            continue
        if isinstance(dataset, _Brought):
            faults += _own_words(dataset)
        elif not _is_there(dataset):
            maker = _maker(name, registered)
            if name in pinned:
                faults.append(f"'{name}' has no version {pinned[name]}")
            elif maker is None:
                faults.append(f"'{name}' is missing: {dataset}")
            else:
                to_make.setdefault(maker, []).append(name)
    for maker in (name for name in registered if name in to_make):
        listed = ", ".join(f"'{name}'" for name in to_make[maker])
        verb, them = ("is", "it") if len(to_make[maker]) == 1 else ("are", "them")
        faults.append(f"{listed} {verb} missing: `{stage_command(run_params, [maker])}` makes {them}")
    return faults


def _unusable_models(pipeline: Pipeline, catalog: DataCatalog) -> list[str]:
    """Models that are here and of a kind that cannot be what a pipeline takes them for; ``plan`` tells this itself."""
    datasets = {name: catalog.get(name) for name in sorted(pipeline.inputs())}
    models = {name: dataset for name, dataset in datasets.items() if isinstance(dataset, ModelFolderDataset)}
    found = {name: dataset.found() for name, dataset in models.items()}
    reasons = {name: unusable(name, models[name].source, folder) for name, folder in found.items() if folder}
    return [f"{name}: {reason}" for name, reason in reasons.items() if reason]


def corrupt_inputs(
    run_params: Mapping[str, Any],
    pipeline: Pipeline,
    catalog: DataCatalog,
    registered: Mapping[str, Pipeline],
    memory: FileMemory,
) -> list[str]:
    """Artifacts that a pipeline reads and does not make, and that are not what was saved; in words that say what to do.

    One without a record, which an earlier release made, is taken as it is.

    Args:
        run_params: What Kedro hands to its pipeline hooks; the commands in the answer have its settings.
        pipeline: What would be run.
        catalog: Of that run.
        registered: All pipelines by name.
        memory: Of hashes.
    """
    faults: list[str] = []
    pinned = run_params.get("load_versions") or {}
    for name in sorted(pipeline.inputs()):
        dataset = catalog.get(name)
        if not isinstance(dataset, AtomicVersions) or not _is_there(dataset):
            continue
        try:
            intact_record(dataset, memory)
        except CorruptError as error:
            maker = _maker(name, registered)
            if name in pinned:
                faults.append(f"'{name}' {pinned[name]} is corrupt ({error}): load another version")
            elif maker is None:
                version = version_of(dataset, "resolve_load_version")
                faults.append(f"'{name}' is corrupt ({error}): put back what was saved as {version}")
            else:
                command = stage_command(run_params, [maker])
                faults.append(f"'{name}' is corrupt ({error}): `{command}` makes it again")
    memory.keep()
    return faults


def _own_words(dataset: _Brought) -> list[str]:
    """What a dataset that a user may have to bring says itself. To load a folder is to look for it, no more."""
    if isinstance(dataset, JsonFilesDataset) and dataset.exists():
        return []
    try:
        dataset.load()
    except DatasetError as error:
        # Kedro puts a line about loading in front of what a dataset says.
        return [str(error.__cause__ if isinstance(error.__cause__, DatasetError) else error)]
    lacking = dataset.missing_files() if isinstance(dataset, ModelFolderDataset) else []
    if lacking:
        place = dataset.source.path_or_id
        pickled = dataset.pickled_weights()
        if pickled and any(name.endswith(".safetensors") for name in lacking):
            revision = f" --revision={dataset.source.revision}" if dataset.source.revision else ""
            return [
                f"the model '{place}' has pickled weights only ({', '.join(pickled)}), which are never read: "
                f"`python -m fisao_pipeline convert {place}{revision} --output={_free_folder(Path(place).name)}` "
                "makes safetensors of them; then name that folder as `filepath`"
            ]
        return [incomplete(dataset.source, lacking)]
    return []


def _free_folder(name: str) -> str:
    """Where `convert` can write a model: it never overwrites, and a download may lie under the model's name already."""
    candidates = (
        f"data/06_models/{name}{end}" for end in chain(("", "-safetensors"), (f"-safetensors-{n}" for n in count(2)))
    )
    return next(folder for folder in candidates if not os.path.lexists(folder))


def _is_there(dataset: AbstractDataset[Any, Any]) -> bool:
    """Whether there is something to load; where a dataset cannot tell, loading it will."""
    if type(dataset)._exists is AbstractDataset._exists:
        return True
    try:
        return dataset.exists()
    except DatasetError:
        return True


def _maker(name: str, registered: Mapping[str, Pipeline]) -> str | None:
    """The smallest pipeline that makes an artifact: the stage, not a sum of stages."""
    makers = [maker for maker, pipeline in registered.items() if name in pipeline.all_outputs()]
    return min(makers, key=lambda maker: len(registered[maker].nodes), default=None)
