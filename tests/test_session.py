"""Stopping a run: the exit code, the MLflow status, what is kept and what the user is told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project

from fisao_pipeline.resume import nodes_to_resume_from, resume_command


def start(project: Path) -> subprocess.Popen:
    """A run on the command line that has saved its first artifact and waits in its second node."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kedro", "run", "--pipelines=toy", "--params=behaviour=wait"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "500", "TERMINAL_WIDTH": "500"},
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
    words = " ".join(output.split())
    assert "The run was stopped. Complete: table" in words
    assert "kedro run --pipelines=toy --from-nodes=count_rows --params=behaviour=wait" in words
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


def identity(value):
    return value


def chain():
    from kedro.pipeline import Node, Pipeline

    return Pipeline(
        [
            Node(identity, "a", "b", name="first"),
            Node(identity, "b", "c", name="second"),
            Node(identity, "c", "d", name="third"),
            Node(identity, "a", "e", name="aside"),
        ]
    )


def test_resuming_starts_at_the_first_unfinished_nodes():
    pipeline = chain()
    done = {node for node in pipeline.nodes if node.name == "first"}
    assert sorted(nodes_to_resume_from(pipeline, done, lambda name: True)) == ["aside", "second"]


def test_resuming_goes_back_to_the_maker_of_what_was_not_kept():
    pipeline = chain()
    done = {node for node in pipeline.nodes if node.name in {"first", "second", "aside"}}
    assert nodes_to_resume_from(pipeline, done, lambda name: name != "c") == ["second"]
    assert nodes_to_resume_from(pipeline, done, lambda name: name not in {"b", "c"}) == ["first"]


def test_the_command_repeats_the_settings_of_the_run():
    params = {
        "env": "smoke",
        "pipeline_names": ["train"],
        "load_versions": {"prompts": "2025-01-01T00.00.00.000Z"},
        "runtime_params": {"policy_training": {"ppo": {"clip_range": 0.1}}, "note": "two words"},
        "to_nodes": ["train_policy"],
        "tags": (),
    }
    assert resume_command(params, ["sample_responses"]) == (
        "kedro run --env=smoke --pipelines=train --from-nodes=sample_responses --to-nodes=train_policy "
        "--load-versions=prompts:2025-01-01T00.00.00.000Z "
        "'--params=policy_training.ppo.clip_range=0.1,note=two words'"
    )
