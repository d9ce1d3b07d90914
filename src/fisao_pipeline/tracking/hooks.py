"""MLflow around a run: kedro-mlflow's own hook, with a store inside the project and without its pitfalls."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.runner import ParallelRunner

from fisao_pipeline.artifacts.data_folder import data_folder
from fisao_pipeline.tracking.delivery import Delivery, Server, first_line, short_patience
from fisao_pipeline.tracking.relocation import follow_move

logger = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
_MEMORY = f"{_SQLITE}:memory:"
_TRACKING_URI = "MLFLOW_TRACKING_URI"
_LOCAL = ("sqlite:", "file:")


class TrackingHooks:
    """Stands in for the hook that kedro-mlflow registers, which the settings disable, and hands on to one like it.

    What differs:

    - MLflow, which takes seconds to import, is imported when a session begins: commands that run nothing do without;
    - a relative SQLite path in mlflow.yml is meant from the project root, and its folder is made when missing;
    - where it names a server, runs are recorded in the data folder and copied to the server (`delivery.py`);
    - parameters are left to `LineageHooks`: kedro-mlflow logs a Pydantic block as one long text;
    - an interrupted run ends as KILLED, not FINISHED;
    - when MLflow cannot be reached, one warning is logged and the pipeline runs without it.
    """

    def __init__(self) -> None:
        self._hook: Any = None  # kedro-mlflow's, as long as there is MLflow to be had
        self._delivery: Delivery | None = None  # to the server, where there is one

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Set up MLflow for a session."""
        with warnings.catch_warnings(
            record=True
        ):  # MLflow warns of a class in kedro-mlflow, and no filter reaches that
            from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook  # noqa: PLC0415 - slow to import

        self._hook, self._delivery = MlflowHook(), None
        self._attempt(self._set_up, context)

    @hook_impl
    def after_catalog_created(
        self,
        catalog: DataCatalog,
        conf_catalog: dict[str, Any],
        conf_creds: dict[str, Any],
        parameters: dict[str, Any],
        save_version: str,
        load_versions: dict[str, str],
    ) -> None:
        """Name kedro-mlflow's metrics after their entries, where there are any: to look makes every dataset, slowly."""
        if self._hook is not None and "kedro_mlflow" in str(conf_catalog):
            self._hook.after_catalog_created(catalog, conf_catalog, conf_creds, parameters, save_version, load_versions)

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Start the MLflow run."""
        if self._hook is not None:
            self._hook.run_id = None
            self._attempt(self._hook.before_pipeline_run, run_params, pipeline, catalog)
        run_id = getattr(self._hook, "run_id", None)
        if self._delivery is not None and run_id is not None:
            forks = ParallelRunner.__name__ in str(run_params.get("runner"))
            self._attempt(self._delivery.start, run_id, not forks)

    @hook_impl
    def before_node_run(self, node: Node, catalog: DataCatalog, inputs: dict[str, Any], is_async: bool) -> None:
        """Make the run the active one in a worker thread too, so that nodes can log metrics to it."""
        run_id = getattr(self._hook, "run_id", None)
        if run_id is None:
            return
        import mlflow  # noqa: PLC0415 - slow to import

        active = mlflow.active_run()
        # Opening a run that this thread has open already would open it twice, and only one is closed at the end.
        if active is None or active.info.run_id != run_id:
            self._attempt(self._hook.before_node_run, node, catalog, {}, is_async)

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """End the MLflow run as FINISHED."""
        if self._hook is not None:
            self._attempt(self._hook.after_pipeline_run, run_params, pipeline, catalog)

    @hook_impl
    def on_pipeline_error(
        self, error: Exception, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """End the MLflow run as FAILED."""
        if self._hook is not None:
            self._attempt(self._hook.on_pipeline_error, error, run_params, pipeline, catalog)

    @hook_impl
    def on_pipeline_interrupt(self, interrupt: KeyboardInterrupt) -> None:
        """End the MLflow run as KILLED."""
        run_id = getattr(self._hook, "run_id", None)
        if run_id is not None and not self._hook._already_active_mlflow:
            self._attempt(self._kill, run_id)

    @hook_impl
    def after_session_run(self) -> None:
        """Hand the rest of the run to the server, once its status is written."""
        if self._delivery is not None:
            self._delivery.stop()

    def _set_up(self, context: KedroContext) -> None:
        context.config_loader.config_patterns.setdefault("mlflow", ["mlflow*", "mlflow*/**", "**/mlflow*"])
        try:
            settings = dict(context.config_loader["mlflow"])
        except MissingConfigException:
            settings = {}
        data = data_folder(context.config_loader, context.project_path)
        settings, server = _recorded_here(settings, data)
        settings = _inside_project(settings, context.project_path)
        context.config_loader["mlflow"] = settings
        chosen = os.environ.get(_TRACKING_URI)
        with short_patience():  # of a run that is written straight to a server
            self._hook.after_context_created(context)
        _follow_move(settings, context.project_path, data)
        if server is not None:
            # MLflow has put the store here into the environment, where the next session would find it chosen.
            os.environ.pop(_TRACKING_URI, None)
            os.environ.update({} if chosen is None else {_TRACKING_URI: chosen})
            self._delivery = Delivery(settings["server"]["mlflow_tracking_uri"], server, data)
            context.__setattr__("delivery", self._delivery)  # for `deliver`
            self._hook.mlflow_config.server.mlflow_tracking_uri = server.uri  # for `kedro mlflow ui`

    def _kill(self, run_id: str) -> None:
        import mlflow  # noqa: PLC0415 - slow to import

        while mlflow.active_run():
            mlflow.end_run("KILLED")
        self._hook.mlflow_config.server._mlflow_client.set_terminated(run_id, "KILLED")

    def _attempt(self, action: Callable[..., None], *arguments: Any) -> None:
        """Do something with MLflow, or turn it off for this session with one warning: results matter more than logs."""
        try:
            action(*arguments)
        except Exception as error:
            self._hook = None
            logger.warning("MLflow is not available, this run is not tracked (further): %s", first_line(error))


def _recorded_here(settings: dict[str, Any], data: Path) -> tuple[dict[str, Any], Server | None]:
    """Put a store in the data folder in a server's place, and give the server.

    A run that was made on the server before, and is gone on with, is written straight to it: it is not here.
    """
    import mlflow  # noqa: PLC0415 - slow to import

    options, tracking = dict(settings.get("server") or {}), dict(settings.get("tracking") or {})
    uri = str(options.get("mlflow_tracking_uri") or "")
    made_there = (tracking.get("run") or {}).get("id") or os.environ.get("MLFLOW_RUN_ID") or mlflow.active_run()
    if "://" not in uri or uri.startswith(_LOCAL) or made_there:
        return settings, None
    experiment = dict(tracking.get("experiment") or {})
    creation = experiment.pop("create_experiment_kwargs", None) or {}
    options["mlflow_tracking_uri"] = _SQLITE + (data / "mlflow" / "mlflow.db").as_posix()
    here = {**settings, "server": options, "tracking": {**tracking, "experiment": experiment}}
    return here, Server(uri, {key: value for key, value in creation.items() if value is not None})


def _inside_project(settings: dict[str, Any], project: Path) -> dict[str, Any]:
    """Make a relative SQLite store absolute, make its folder, and keep the artifacts beside it."""
    server = dict(settings.get("server") or {})
    store = _store_of(settings, project)
    if store is None:
        return settings
    store.parent.mkdir(parents=True, exist_ok=True)
    if not store.exists():
        logger.info("Making the MLflow database %s: once, some seconds.", store)
    server["mlflow_tracking_uri"] = _SQLITE + store.as_posix()
    tracking = dict(settings.get("tracking") or {})
    experiment = dict(tracking.get("experiment") or {})
    creation = dict(experiment.get("create_experiment_kwargs") or {})
    if creation.get("artifact_location") is None:
        creation["artifact_location"] = _beside(store).as_posix()
    tracking["experiment"] = {**experiment, "create_experiment_kwargs": creation}
    return {**settings, "server": server, "tracking": tracking}


def _follow_move(settings: dict[str, Any], project: Path, data: Path) -> None:
    """See that a store here knows where its artifacts are; those whose place somebody chose are left there."""
    store = _store_of(settings, project)
    if store is not None:
        artifacts = _beside(store)
        if settings["tracking"]["experiment"]["create_experiment_kwargs"]["artifact_location"] == artifacts.as_posix():
            follow_move(store, artifacts, data)


def _store_of(settings: dict[str, Any], project: Path) -> Path | None:
    """The SQLite file that runs are recorded in, if it is one; a relative path counts from the project."""
    uri = str((settings.get("server") or {}).get("mlflow_tracking_uri") or "")
    return Path(project, uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) and uri != _MEMORY else None


def _beside(store: Path) -> Path:
    return store.parent / "artifacts"
