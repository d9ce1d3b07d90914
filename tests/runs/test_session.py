"""Stopping a run: the exit code, the MLflow status, what is kept and what the user is told."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project


def start(project: Path) -> subprocess.Popen:
    """A run on the command line that has saved its first artifact and waits in its second node."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kedro", "run", "--pipelines=toy", "--params=behaviour=wait"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        # A test run started in the background (`pytest &`) ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 60
    while not (project / "waiting").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def only_run(uri: str):
    client = mlflow.MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("fisao_pipeline").experiment_id])
    return found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_is_killed_and_says_how_to_go_on(toy_project, mlflow_store, number, code):
    project = toy_project()
    process = start(project)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output
    run = only_run(mlflow_store)
    assert run.info.status == "KILLED"
    assert run.info.end_time is not None
    # Without the names of modules, which stand where the log's lines end.
    words = " ".join(re.sub(r"\w+\.py:\d+", "", output).split())
    assert "The run was stopped. Complete: table" in words
    assert "kedro run --pipelines=toy --from-nodes=count_rows --params=behaviour=wait" in output.splitlines()
    (version,) = [path.name for path in (project / "data" / "table.parquet").iterdir()]
    assert json.loads((project / "data/table.parquet" / version / "provenance.json").read_text())["version"] == version
    assert not (project / "data" / "count.json").exists()


def test_the_command_that_was_suggested_finishes_the_run(toy_project, mlflow_store):
    project = toy_project()
    bootstrap_project(project)
    with (
        pytest.raises(ValueError, match="asked to fail"),
        settings.SESSION_CLASS.create(project_path=project, runtime_params={"behaviour": "fail"}) as session,
    ):
        session.run()
    with settings.SESSION_CLASS.create(project_path=project) as session:
        session.run(from_nodes=["count_rows"])
    (count,) = (project / "data" / "count.json").glob("*/count.json")
    assert json.loads(count.read_text()) == {"rows": 3}


def test_from_python_an_interrupt_stays_an_interrupt(toy_project, mlflow_store, monkeypatch):
    project = toy_project()
    nodes = next(project.glob("src/*/nodes.py"))
    nodes.write_text(nodes.read_text().replace("time.sleep(60)", "raise KeyboardInterrupt"))
    bootstrap_project(project)
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(KeyboardInterrupt),
        settings.SESSION_CLASS.create(project_path=project, runtime_params={"behaviour": "wait"}) as session,
    ):
        session.run()
    assert only_run(mlflow_store).info.status == "KILLED"
    assert mlflow.active_run() is None
    assert signal.getsignal(signal.SIGTERM) is before
