"""Lineage and tracking, seen through real runs of a small project."""

import json
import logging
import subprocess
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project
from kedro.runner import ParallelRunner, ThreadRunner

from fisao_pipeline.artifacts import provenance
from fisao_pipeline.commands.cli import cli
from fisao_pipeline.runs.lineage import LineageHooks

FORCED = {"deterministic": False, "force": True}


class Listener(logging.Handler):
    """Keeps the package's messages; pytest's own handler goes when Kedro configures logging."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.messages = []

    def emit(self, record):
        self.messages.append(f"{record.levelname}: {record.getMessage()}")

    def attach(self):
        logger = logging.getLogger("fisao_pipeline")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)


@pytest.fixture
def listener():
    one = Listener()
    yield one
    logging.getLogger("fisao_pipeline").removeHandler(one)


def run(project: Path, runner=None, listener=None, options=None, **parameters):
    bootstrap_project(project)
    if listener is not None:
        listener.attach()
    with settings.SESSION_CLASS.create(project_path=project, runtime_params=parameters) as session:
        session.run(runner=runner, **(options or {}))
        return session.session_id


def only_run(uri: str, experiment: str = "fisao_pipeline"):
    client = mlflow.MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return found


def provenance_of(project: Path, name: str, version: str) -> dict:
    return json.loads((project / "data" / name / version / "provenance.json").read_text())


def test_a_run_is_tracked_with_versions_and_flat_parameters(toy_project, mlflow_store):
    project = toy_project()
    version = run(project)
    tracked = only_run(mlflow_store)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["output.table"] == tracked.data.tags["input.table"] == version
    assert tracked.data.tags["output.count"] == version
    assert tracked.data.params["block.ppo.clip_range"] == "0.2"
    assert tracked.data.params["block.ppo.sizes"] == "[1, 2]"
    assert tracked.data.params["block.note"] == "x" * 6000
    assert set(tracked.data.params) == {"block.ppo.clip_range", "block.ppo.sizes", "block.note", "behaviour"}
    assert tracked.data.metrics["rows_seen"] == 3
    assert mlflow.active_run() is None


def test_provenance_lies_beside_the_artifact(toy_project, mlflow_store):
    project = toy_project()
    version = run(project)
    record = provenance_of(project, "count.json", version)
    assert record["dataset"] == "count"
    assert record["version"] == record["kedro_session_id"] == version
    assert record["mlflow_run_id"] == only_run(mlflow_store).info.run_id
    assert record["node"] == "count_rows"
    assert record["inputs"] == {"table": version}
    assert record["parameters"]["block.ppo.clip_range"] == 0.2
    assert record["parameters"]["block.note"] == "x" * 7000
    assert record["git_commit"] is None
    assert record["libraries"]["kedro"].startswith("1.")
    assert not [path for path in project.glob("data/**/.*") if path.name != ".state"]


def test_lineage_of_the_whole_run_is_an_artifact(toy_project, mlflow_store):
    project = toy_project()
    run(project)
    tracked = only_run(mlflow_store)
    lineage = mlflow.artifacts.load_dict(f"{tracked.info.artifact_uri}/lineage.json")
    assert list(lineage["artifacts"]) == ["table", "count"]
    assert tracked.info.artifact_uri.startswith(Path(mlflow_store.removeprefix("sqlite:///")).parent.as_uri())


def test_the_version_that_was_read_is_the_one_recorded(toy_project, mlflow_store):
    project = toy_project()
    first = run(project)
    run(project, runtime=FORCED)
    third = run(project, options={"node_names": ["count_rows"], "load_versions": {"table": first}})
    assert provenance_of(project, "count.json", third)["inputs"] == {"table": first}


def test_commit_and_dirty_files_are_recorded(toy_project, mlflow_store):
    project = toy_project()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (project / ".gitignore").write_text("data/\n__pycache__/\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=project, check=True)
    record = provenance_of(project, "table.parquet", run(project))
    assert len(record["git_commit"]) == 40
    assert record["git_dirty"] is False
    assert only_run(mlflow_store).data.tags["git_commit"] == record["git_commit"]
    (project / "new.txt").touch()
    assert provenance_of(project, "table.parquet", run(project, runtime=FORCED))["git_dirty"] is True


@pytest.mark.parametrize(
    ("code", "is_dirty"),
    [("project/src/fisao_pipeline", False), (".venv/lib/site-packages/fisao_pipeline", False), ("other/src", True)],
)
def test_a_commit_is_not_clean_where_code_of_another_place_runs(tmp_path, monkeypatch, code, is_dirty):
    """An installed release is told by its version; what is imported from elsewhere is of no commit of the project's."""
    project = tmp_path / "project" / "below"
    project.mkdir(parents=True)
    (project / "file").touch()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q", ".."], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=project, check=True)
    monkeypatch.setattr(provenance, "CODE", tmp_path / code)
    commit, dirty = provenance.git_state(project)
    assert len(commit) == 40 and dirty is is_dirty
    assert provenance.foreign_code(project) == (tmp_path / code if is_dirty else None)
    assert provenance.git_state(tmp_path) == (None, None) and provenance.foreign_code(tmp_path) is None


def test_a_failing_run_is_failed_and_says_how_to_go_on(toy_project, mlflow_store, listener, capsys):
    project = toy_project()
    with pytest.raises(ValueError, match="asked to fail"):
        run(project, listener=listener, behaviour="fail", options={"pipeline_names": ["toy"]})
    assert only_run(mlflow_store).info.status == "FAILED"
    (message,) = listener.messages
    assert message.startswith("WARNING: The run failed (ValueError). Complete: table (version")
    assert message.endswith("To go on, run this command:")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "kedro run --pipelines=toy --from-nodes=count_rows --params=behaviour=fail"
    assert not (project / "data" / "count.json").exists()


def test_what_the_command_cannot_express_is_said(toy_project, mlflow_store, listener, capsys):
    project = toy_project()
    with pytest.raises(ValueError, match="asked to fail"):
        run(project, listener=listener, behaviour="fail", block={"ppo": {"sizes": [3, 4]}, "note": "a, b"})
    (message,) = listener.messages
    assert "first put block.ppo.sizes, block.note into conf/local/parameters.yml" in message
    assert capsys.readouterr().err.splitlines()[-1] == "kedro run --from-nodes=count_rows --params=behaviour=fail"


def test_one_line_says_what_was_written(toy_project, mlflow_store, listener):
    project = toy_project()
    version = run(project, listener=listener)
    run_id = only_run(mlflow_store).info.run_id
    assert listener.messages == [f"INFO: Complete: table, count (version {version}, MLflow run {run_id})."]


def test_a_node_that_asks_is_given_the_records_of_all_it_rests_on(toy_project, mlflow_store, capsys):
    """Of the versions that it reads, not of the latest; and the place of a report is the last that is said."""
    project = toy_project()
    catalog = project / "conf" / "base" / "catalog.yml"
    catalog.write_text(
        catalog.read_text()
        + "lineage:\n  type: fisao_pipeline.datasets.LineageDataset\n"
        + "report:\n  type: fisao_pipeline.datasets.AtomicDataset\n  dataset: json.JSONDataset\n"
        + "  filepath: data/report.json\n  versioned: true\n"
    )
    (nodes,) = (project / "src").rglob("nodes.py")
    added = '        Node(lambda count, lineage: lineage, ["count", "lineage"], "report", name="write"),\n    ])'
    nodes.write_text(nodes.read_text().replace("    ])", f"    {added}", 1))
    first = run(project)
    said = capsys.readouterr().out.splitlines()
    path = project / "data" / "report.json" / first / "report.json"
    assert said[-1] == f"Report: {path.relative_to(Path.cwd())}"
    records = json.loads(path.read_text())["records"]
    assert [(one["dataset"], one["version"]) for one in records] == [("count", first), ("table", first)]
    printed = CliRunner().invoke(cli, ["lineage", f"report@{first}"]).output.splitlines()
    assert json.loads(path.read_text())["tree"] == printed[1:] and len(printed) == 3
    second = run(project)
    options = {"node_names": ["write"], "load_versions": {"count": first}}
    third = run(project, options=options)
    records = json.loads((project / "data" / "report.json" / third / "report.json").read_text())["records"]
    assert {one["version"] for one in records} == {first} != {second}
    run(project, options={"node_names": ["count_rows"]})
    assert "Report:" not in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("runner", [ThreadRunner(), ParallelRunner(max_workers=2)], ids=["threads", "processes"])
def test_other_runners_leave_the_same_lineage(toy_project, mlflow_store, runner):
    project = toy_project()
    version = run(project, runner=runner)
    tracked = only_run(mlflow_store)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["input.table"] == tracked.data.tags["output.count"] == version
    assert tracked.data.params["block.ppo.clip_range"] == "0.2"
    assert provenance_of(project, "count.json", version)["mlflow_run_id"] == tracked.info.run_id
    lineage = mlflow.artifacts.load_dict(f"{tracked.info.artifact_uri}/lineage.json")
    assert set(lineage["artifacts"]) == {"table", "count"}


def test_runs_where_the_store_cannot_be_written(toy_project, mlflow_store, listener, monkeypatch):
    project = toy_project()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/mlflow.db")
    # A node that logs must look whether a run is active; this one does not, so it is replaced.
    nodes = next(project.glob("src/*/nodes.py"))
    nodes.write_text(nodes.read_text().replace('mlflow.log_metric("rows_seen", len(table))', ""))
    version = run(project, listener=listener)
    warnings = [message for message in listener.messages if message.startswith("WARNING")]
    assert len(warnings) == 1
    assert "MLflow is not available, this run is not tracked (further)" in warnings[0]
    assert provenance_of(project, "count.json", version)["mlflow_run_id"] is None


def test_tracking_can_be_turned_off_for_a_pipeline(toy_project, mlflow_store):
    project = toy_project()
    local = project / "conf" / "local" / "mlflow.yml"
    local.write_text("tracking: {disable_tracking: {pipelines: [toy]}}\n")
    nodes = next(project.glob("src/*/nodes.py"))
    nodes.write_text(nodes.read_text().replace('mlflow.log_metric("rows_seen", len(table))', ""))
    version = run(project, options={"pipeline_names": ["toy"]})
    assert provenance_of(project, "count.json", version)["mlflow_run_id"] is None
    client = mlflow.MlflowClient(mlflow_store)
    assert client.search_runs([client.get_experiment_by_name("fisao_pipeline").experiment_id]) == []


def test_the_default_store_lies_in_the_project_wherever_it_is_run_from(
    toy_project, mlflow_template, monkeypatch, tmp_path
):
    project = toy_project()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    run(project)
    assert only_run(f"sqlite:///{project}/data/mlflow/mlflow.db").info.artifact_uri.startswith(
        (project / "data/mlflow/artifacts").as_uri()
    )


def test_hooks_do_nothing_outside_a_run():
    LineageHooks().on_pipeline_interrupt(KeyboardInterrupt())
