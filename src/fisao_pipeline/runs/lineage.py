"""Lineage: which code, settings and inputs each artifact came from, on disk beside it and in the MLflow run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.runner import SequentialRunner

from fisao_pipeline.artifacts.ancestry import ancestry
from fisao_pipeline.artifacts.data_folder import data_folder, environment_of
from fisao_pipeline.artifacts.evidence import Evidence, EvidenceOf, is_kept, version_of
from fisao_pipeline.artifacts.file_memory import FileMemory, sha256
from fisao_pipeline.artifacts.freshness import State, Verdict, judge_node
from fisao_pipeline.artifacts.provenance import RunContext, build_record, git_state, write_json
from fisao_pipeline.artifacts.tree import branches_of, trees_below
from fisao_pipeline.datasets.adapter_folder import AdapterFolderDataset
from fisao_pipeline.datasets.lineage import GivenLineage
from fisao_pipeline.datasets.preview import read_provenance
from fisao_pipeline.datasets.publish import Recorded
from fisao_pipeline.runs.determinism import is_deterministic, runtime_params
from fisao_pipeline.runs.resume import inexpressible, resume_command, unfinished_nodes
from fisao_pipeline.tracking.adapters import find_adapter, log_adapter
from fisao_pipeline.tracking.inputs import dataset_inputs

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

# Names in the catalog: an input that is filled here, and the page whose place is said when a run has ended.
LINEAGE, REPORT = "lineage", "report"
# What a reader opens, beside the figures: copied to the MLflow run.
PAGES = (REPORT, "comparison_table")


class LineageHooks:
    """Links catalog versions, MLflow runs and commits, and says after each run what it wrote or how to go on.

    It works without MLflow, without git, in threads and in worker processes that Kedro's ParallelRunner forks (each
    has its own copy, so nothing here relies on having seen the other nodes). Where worker processes are spawned, as
    on macOS, Kedro 1.7 calls no project hooks in them, and there is no lineage of their nodes.
    """

    def __init__(self) -> None:
        self._project, self._data, self._environment = Path.cwd(), Path.cwd() / "data", ""
        self._warned = False
        self._forget()

    def _forget(self) -> None:
        self._run: RunContext | None = None
        self._run_params: dict[str, Any] = {}
        self._pipeline = Pipeline([])
        self._catalog = DataCatalog()
        self._gather = EvidenceOf(self._pipeline, self._catalog, FileMemory(self._data))
        self._forced: Callable[[Node], bool] = lambda _node: False
        self._evidence: dict[str, Evidence] = {}
        self._started: dict[str, float] = {}
        self._saved: set[str] = set()
        self._judged: dict[str, Verdict] = {}
        self._kept: dict[str, str | None] = {}
        self._readers: dict[str, str] = {}

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Learn where the project is, for git, and where its data."""
        self._project = Path(context.project_path)
        self._data = data_folder(context.config_loader, self._project)
        self._environment = environment_of(context.config_loader)
        self._warned = False
        self._forget()

    @hook_impl(trylast=True)  # once the MLflow run is open
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Note what all artifacts of this run will share and tag the MLflow run with the commit."""
        import mlflow  # noqa: PLC0415 - slow to import

        self._forget()
        active = mlflow.active_run()
        self._run = RunContext(
            run_params["run_id"],
            active.info.run_id if active else None,
            mlflow.get_tracking_uri() if active else None,
            *git_state(self._project),
            self._environment,
        )
        self._run_params, self._pipeline, self._catalog = run_params, pipeline, catalog
        self._gather = EvidenceOf(pipeline, catalog, FileMemory(self._data))
        self._readers = {
            name: ", ".join(node.name for node in pipeline.nodes if name in node.inputs) for name in pipeline.datasets()
        }
        everything, named = runtime_params(catalog).force, set(run_params.get("node_names") or ())
        self._forced = lambda node: everything or node.name in named
        tags = {"kedro_session_id": self._run.kedro_session_id}
        if self._run.git_commit is not None:
            tags |= {"git_commit": self._run.git_commit, "git_dirty": str(self._run.git_dirty).lower()}
        tags["deterministic"] = str(is_deterministic(catalog)).lower()
        self._tag(tags)
        if SequentialRunner.__name__ not in str(run_params.get("runner")):
            logger.info("This runner runs every node, fresh or not; Kedro's default leaves out the fresh ones.")

    @hook_impl
    def skip_node(self, node: Node) -> bool:
        """Whether all that a node makes is there as it would make it now."""
        if self._forced(node):
            return False
        evidence = self._evidence[node.name] = self._gather.of(node)
        verdicts = judge_node(node, evidence, self._catalog, self._gather.memory)
        fresh = bool(verdicts) and all(verdict.state is State.FRESH for verdict in verdicts.values())
        self._judged |= verdicts
        return fresh

    @hook_impl
    def after_node_skipped(self, node: Node) -> None:
        """Say so, tag the MLflow run with what was kept, and log with which parameters: a run as if it had been run."""
        kept = {name: self._judged[name].version for name in node.outputs if name in self._judged}
        self._kept |= kept
        self._saved.update(node.outputs)
        versions = ", ".join(sorted({str(version) for version in kept.values()}))
        logger.info("%s: fresh, kept %s", node.name, versions)
        contents = {name: self._judged[name].content for name in kept}
        self._tag({f"kept.{name}": str(version) for name, version in kept.items()} | _content_tags(contents))
        self._log_parameters(self._evidence[node.name].parameters)

    @hook_impl
    def before_node_run(self, node: Node, catalog: DataCatalog) -> dict[str, Any] | None:
        """Note what a node depends on, log it and the parameters, and hand over its inputs' records if asked."""
        if catalog is not self._catalog:  # a worker process has its own
            self._catalog, self._gather = catalog, EvidenceOf(self._pipeline, catalog, FileMemory(self._data))
        evidence = self._evidence[node.name] = self._gather.of(node)
        self._started[node.name] = perf_counter()
        versions = {f"input.{name}": version for name, version in evidence.inputs.items() if version is not None}
        self._tag(versions | _content_tags(evidence.contents))
        self._log_inputs(evidence)
        self._log_parameters(evidence.parameters)
        return {LINEAGE: self._given(evidence)} if LINEAGE in node.inputs else None

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Count a node that makes nothing as done; any other is done when its outputs are saved."""
        if not node.outputs:
            self._saved.add(node.name)

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Have `provenance.json` saved with the artifact, in the same step."""
        dataset, evidence, run = self._catalog.get(dataset_name), self._evidence.get(node.name), self._run
        if not isinstance(dataset, Recorded) or evidence is None or run is None:
            return
        started = self._started[node.name]

        def write(artifact: Path, place: Path) -> None:
            content = dataset.content(sha256, artifact)
            record = build_record(
                run,
                evidence,
                dataset=dataset_name,
                version=version_of(dataset, "resolve_save_version") or run.kedro_session_id,
                content=content,
                seconds=perf_counter() - started,
            )
            write_json(place, record)

        dataset.record_with(write)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Tag the MLflow run with version and content of what was saved; figures and pages are files of it."""
        self._saved.add(dataset_name)
        self._gather.forget(dataset_name)
        version = self._version(dataset_name, "resolve_save_version")
        record = read_provenance(self._provenance_path(dataset_name, version)) or {}
        tags = {f"output.{dataset_name}": version} if version is not None else {}
        self._tag(tags | _content_tags({dataset_name: record.get("content")}))
        dataset = self._catalog.get(dataset_name)
        if record and version is not None and isinstance(dataset, AdapterFolderDataset):
            self._log_adapter(dataset.version_path(version), record)
        if version is not None and (dataset_name in PAGES or getattr(dataset, "drawn_as", "")):
            file = str(dataset.version_path(version))
            self._with_mlflow(lambda client, run_id: client.log_artifact(run_id, file, dataset_name))

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Log the run's lineage, say in one line what was written, and at the very end where the report is."""
        logger.info("%s.", self._finish())
        report = self._place(REPORT)
        if report is not None:
            # Not through the log, which wraps lines: this one is there to be opened.
            click.echo(f"Report: {report}")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Log the lineage so far and say how to go on once the cause is removed."""
        self._stopped(f"failed ({type(error).__name__})")

    @hook_impl
    def on_pipeline_interrupt(self, interrupt: KeyboardInterrupt) -> None:
        """Log the lineage so far, say what is complete and how to go on."""
        if self._run is not None:
            self._stopped("was stopped")

    def _stopped(self, how: str) -> None:
        artifacts = self._artifacts()
        done = {node for node in self._pipeline.nodes if self._is_done(node, artifacts)}
        todo = unfinished_nodes(self._pipeline, done, self._is_kept)
        if not todo:
            logger.warning("The run %s. %s. Nothing is left to run.", how, self._finish())
            return
        unsaid = inexpressible(self._run_params.get("runtime_params"))
        first = ""
        if unsaid:
            place = f"conf/{self._run_params.get('env') or 'local'}/parameters.yml"
            first = f" first put {', '.join(unsaid)} into {place}, since --params cannot express such values; then"
        logger.warning("The run %s. %s. To go on,%s run this command:", how, self._finish(), first)
        # Not through the log, which wraps lines: this one is there to be copied.
        command_line = click.get_current_context(silent=True)
        options = command_line.params if command_line is not None else {}
        click.echo(resume_command(self._run_params, self._pipeline, todo, options), err=True)

    def _finish(self) -> str:
        """Log lineage.json and describe what was written."""
        run, artifacts = self._run, self._artifacts()
        if run is None:
            return "Nothing was written"
        shared = {"kedro_session_id": run.kedro_session_id, "git_commit": run.git_commit}
        lineage = {**shared, "artifacts": artifacts, "kept": self._kept}
        self._with_mlflow(lambda client, run_id: client.log_dict(run_id, lineage, "lineage.json"))
        tracked = f", MLflow run {run.mlflow_run_id}" if run.mlflow_run_id else ""
        written = ", ".join(artifacts) or ("nothing new, all is fresh" if self._kept else "no versioned artifact")
        return f"Complete: {written} (version {run.kedro_session_id}{tracked})"

    def _artifacts(self) -> dict[str, dict[str, Any]]:
        """Provenance of what this run has saved, read from disk because worker processes may have written it."""
        run, found = self._run, {}
        for name in (name for node in self._pipeline.nodes for name in node.outputs):
            version = self._version(name, "resolve_save_version") if run else None
            record = read_provenance(self._provenance_path(name, version)) if version else None
            if record is not None and record["kedro_session_id"] == run.kedro_session_id:
                found[name] = record
        return found

    def _given(self, evidence: Evidence) -> GivenLineage:
        below = trees_below(self._catalog, evidence.inputs, evidence.contents)
        return {"records": self._ancestry(evidence.inputs), "tree": list(branches_of(below))}

    def _ancestry(self, versions: Mapping[str, str | None]) -> list[dict[str, Any]]:
        """Records of these artifacts, of what they were made from, and so on, each once."""
        known = [(name, version) for name, version in versions.items() if version is not None]
        return [dict(each.record) for each in ancestry(self._catalog, known).values() if each.record is not None]

    def _place(self, name: str) -> Path | None:
        """Where an artifact is that this run has saved or kept, seen from the folder that the command was given in."""
        version = self._version(name, "resolve_save_version") if name in self._artifacts() else self._kept.get(name)
        if version is None:
            return None
        path = self._catalog.get(name).version_path(version)
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

    def _is_done(self, node: Node, artifacts: Mapping[str, Any]) -> bool:
        return all(name in self._saved or name in artifacts for name in node.outputs or [node.name])

    def _is_kept(self, name: str) -> bool:
        return is_kept(name, self._catalog)

    def _version(self, name: str, resolve: str) -> str | None:
        return version_of(self._catalog.get(name), resolve)

    def _provenance_path(self, name: str, version: str | None) -> Path | None:
        return getattr(self._catalog.get(name), "provenance_path", lambda _version: None)(version)

    def _tag(self, tags: Mapping[str, str]) -> None:
        if tags:
            from mlflow.entities import RunTag  # noqa: PLC0415 - slow to import
            from mlflow.utils.validation import MAX_TAG_VAL_LENGTH  # noqa: PLC0415

            entries = [RunTag(key, value[:MAX_TAG_VAL_LENGTH]) for key, value in tags.items()]
            self._with_mlflow(lambda client, run_id: client.log_batch(run_id, tags=entries))

    def _log_inputs(self, evidence: Evidence) -> None:
        from mlflow.entities import LoggedModelInput  # noqa: PLC0415 - slow to import

        adapters = [
            content
            for name, content in evidence.contents.items()
            if content is not None and isinstance(self._catalog.get(name), AdapterFolderDataset)
        ]

        def log(client: MlflowClient, run_id: str) -> None:
            found = [find_adapter(client, run_id, content) for content in adapters]
            models = [LoggedModelInput(model.model_id) for model in found if model is not None]
            datasets = dataset_inputs(evidence, self._catalog, self._readers, self._project)
            if datasets:
                client.log_inputs(run_id, datasets, models)

        self._with_mlflow(log)

    def _log_adapter(self, folder: Path, record: Mapping[str, Any]) -> None:
        runtime = runtime_params(self._catalog)
        records = [record, *self._ancestry(record["inputs"])]
        options = {"registered_model": runtime.registered_model, "weights": runtime.adapter_weights_to_mlflow}
        self._with_mlflow(lambda client, run_id: log_adapter(client, run_id, folder, records, **options))

    def _log_parameters(self, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param  # noqa: PLC0415 - slow to import
        from mlflow.utils import validation  # noqa: PLC0415

        entries = [
            Param(_valid_key(key)[: validation.MAX_ENTITY_KEY_LENGTH], str(value)[: validation.MAX_PARAM_VAL_LENGTH])
            for key, value in parameters.items()
        ]
        size = validation.MAX_PARAMS_TAGS_PER_BATCH
        for start in range(0, len(entries), size):
            batch = entries[start : start + size]
            self._with_mlflow(lambda client, run_id, batch=batch: client.log_batch(run_id, params=batch))

    def _with_mlflow(self, action: Callable[[MlflowClient, str], Any]) -> None:
        """Do something with this run in MLflow; one warning per run if that fails, as results matter more than logs."""
        run = self._run
        if run is None or run.mlflow_run_id is None:
            return
        import mlflow  # noqa: PLC0415 - slow to import

        try:
            # By id and not "the active run", which belongs to one thread of one process.
            # And models are registered where the run is: a registry elsewhere may not answer.
            action(mlflow.MlflowClient(run.tracking_uri, run.tracking_uri), run.mlflow_run_id)
        except Exception as error:
            if not self._warned:
                self._warned = True
                logger.warning("MLflow did not take the lineage (%s); provenance.json has it.", error)


def _content_tags(contents: Mapping[str, str | None]) -> dict[str, str]:
    return {f"content.{name}": content for name, content in contents.items() if content is not None}


def _valid_key(key: str) -> str:
    """MLflow takes letters, digits and a few signs in names."""
    return "".join(sign if sign.isalnum() or sign in "_-./ " else "_" for sign in key)
