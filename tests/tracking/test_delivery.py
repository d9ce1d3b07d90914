"""Runs reach a server wholly and once, whatever it does meanwhile; a run neither fails nor waits for it."""

import socket
import time
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from tests.runs.test_lineage import listener, only_run, run  # noqa: F401 - a fixture

from fisao_pipeline.commands.cli import cli
from fisao_pipeline.tracking import delivery
from fisao_pipeline.tracking.delivery import HERE_TAG, THERE_TAG, WAITING_TAG, Delivery, Server

# To the code a server like any other; to MLflow another name of SQLite, with no process to start.
DATABASE = "sqlite+pysqlite:///"


@pytest.fixture
def here(mlflow_store):
    return mlflow.MlflowClient(mlflow_store)


@pytest.fixture
def server(mlflow_template, tmp_path):
    """The URI of a second store."""
    store = tmp_path / "server" / "mlflow.db"
    store.parent.mkdir()
    store.write_bytes(Path(mlflow_template).read_bytes())
    return f"{DATABASE}{store}"


@pytest.fixture
def silent():
    """The URI of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://somebody:hunter2@127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def recorded(here, tmp_path):
    """A run here with one of everything, and a child."""
    experiment = here.create_experiment("toy", artifact_location=(tmp_path / "artifacts").as_uri())
    parent = here.create_run(experiment, run_name="parent", tags={"colour": "blue"}).info.run_id
    here.log_param(parent, "rate", 0.1)
    for step in range(3):
        here.log_metric(parent, "loss", 1.0, timestamp=step, step=step)
    here.log_dict(parent, {"a": 1}, "lineage.json")
    child = here.create_run(experiment, run_name="child", tags={"mlflow.parentRunId": parent}).info.run_id
    here.log_metric(child, "loss", 2.0, timestamp=1, step=0)
    here.set_terminated(child, "FAILED")
    return parent


def deliver_to(uri, mlflow_store, tmp_path, run_id=None):
    one = Delivery(mlflow_store, Server(uri), tmp_path)
    if run_id is not None:
        one.start(run_id, beside=False)
    return one


def copies(uri):
    client = mlflow.MlflowClient(uri)
    return {one.info.run_name: one for one in client.search_runs([client.get_experiment_by_name("toy").experiment_id])}


def test_everything_arrives_with_its_time_and_status(recorded, here, server, mlflow_store, tmp_path):
    here.set_terminated(recorded, "KILLED")
    one = deliver_to(server, mlflow_store, tmp_path, recorded)
    assert one.deliver() == ([recorded], None)
    there = copies(server)
    parent, child = there["parent"], there["child"]
    original = here.get_run(recorded)
    assert parent.info.status == "KILLED"
    assert child.info.status == "FAILED"
    assert (parent.info.start_time, parent.info.end_time) == (original.info.start_time, original.info.end_time)
    assert parent.data.params == {"rate": "0.1"}
    assert parent.data.tags["colour"] == "blue"
    assert parent.data.tags[HERE_TAG] == recorded
    assert not [key for key in parent.data.tags if key.startswith("delivery.")]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id != recorded
    assert original.data.tags[THERE_TAG] == parent.info.run_id
    points = mlflow.MlflowClient(server).get_metric_history(parent.info.run_id, "loss")
    assert [(point.timestamp, point.step, point.value) for point in points] == [(0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0)]
    assert mlflow.artifacts.load_dict(f"{parent.info.artifact_uri}/lineage.json") == {"a": 1}
    assert here.get_run(recorded).data.tags[WAITING_TAG] == "false"
    assert one.deliver() == ([], None)


def test_only_what_is_new_is_sent_while_a_run_goes_on(recorded, here, server, mlflow_store, tmp_path, monkeypatch):
    one = deliver_to(server, mlflow_store, tmp_path, recorded)
    assert one.deliver() == ([], None)
    assert copies(server)["parent"].info.status == "RUNNING"
    here.log_metric(recorded, "loss", 1.0, timestamp=0, step=3)  # earlier than those that are there
    sent, real = [], mlflow.MlflowClient.log_batch

    def log_batch(client, run_id, metrics=(), params=(), tags=()):
        sent.extend([*metrics, *params, *tags])
        return real(client, run_id, metrics, params, tags)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", log_batch)
    one.deliver()
    assert [(point.key, point.step) for point in sent if hasattr(point, "step")] == [("loss", 3)]
    assert not [entry for entry in sent if entry.key in ("rate", "colour")]


@pytest.mark.parametrize("call", range(1, 9))
def test_after_a_failure_at_any_request_another_process_sends_the_rest_once(
    recorded, here, server, mlflow_store, tmp_path, monkeypatch, call
):
    """Each request is done and its answer lost, which is the worse of the two ways to fail."""
    here.set_terminated(recorded)
    made = []
    with monkeypatch.context() as patch:
        for name in ("create_experiment", "create_run", "log_batch", "log_artifacts", "set_terminated"):
            original = getattr(mlflow.MlflowClient, name)

            def lost(client, *arguments, _real=original, **options):
                answer = _real(client, *arguments, **options)
                if client.tracking_uri == server:
                    made.append(1)
                    if len(made) == call:
                        raise MlflowException("the line is dead")
                return answer

            patch.setattr(mlflow.MlflowClient, name, lost)
        done, error = deliver_to(server, mlflow_store, tmp_path, recorded).deliver()
    assert (done, str(error)) == ([], "the line is dead")
    points = []
    real = mlflow.MlflowClient.log_batch
    monkeypatch.setattr(
        mlflow.MlflowClient,
        "log_batch",
        lambda client, run_id, metrics=(), **rest: (points.extend(metrics), real(client, run_id, metrics, **rest)),
    )
    assert deliver_to(server, mlflow_store, tmp_path).deliver() == ([recorded], None)
    found = mlflow.MlflowClient(server)
    assert len(found.search_runs([found.get_experiment_by_name("toy").experiment_id])) == 2
    parent = copies(server)["parent"]
    assert parent.info.status == "FINISHED"
    assert len(found.get_metric_history(parent.info.run_id, "loss")) == 3
    assert len(points) in (0, 1, 4), "of each run all or none, as one request was"


def test_a_silent_server_costs_the_run_no_time_and_one_warning(toy_project, listener, silent, monkeypatch):  # noqa: F811
    project = toy_project()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(delivery, "EVERY_SECONDS", 0.1)
    # The end must not wait for more than it takes to see that nobody answers.
    monkeypatch.setattr(delivery, "END_SECONDS", 5.0)
    began = time.monotonic()
    run(project, listener=listener)
    assert time.monotonic() - began < 60
    (warning,) = [message for message in listener.messages if message.startswith("WARNING")]
    assert "takes nothing now" in warning
    assert "python -m fisao_pipeline deliver" in warning
    assert "hunter2" not in " ".join(listener.messages)
    tracked = only_run(f"sqlite:///{project}/data/mlflow/mlflow.db")
    assert tracked.info.status == "FINISHED"
    assert tracked.data.metrics == {"rows_seen": 3.0}
    assert "hunter2" not in str(tracked.data.tags)
    assert tracked.data.tags[WAITING_TAG] == "true"


def test_the_end_of_a_run_waits_no_longer_than_is_said(recorded, silent, mlflow_store, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(delivery, "END_SECONDS", 0.3)
    one = deliver_to(silent, mlflow_store, tmp_path, recorded)
    began = time.monotonic()
    with caplog.at_level("INFO", "fisao_pipeline"):
        one.stop()
    assert time.monotonic() - began < 3
    assert f"MLflow run {recorded} has not wholly reached http://***@127.0.0.1" in caplog.text


def test_what_a_dead_server_missed_is_sent_by_the_command_and_by_the_next_run(
    toy_project, mlflow_template, server, monkeypatch
):
    project = toy_project()
    store = project / "data" / "mlflow" / "mlflow.db"
    store.parent.mkdir(parents=True)
    store.write_bytes(Path(mlflow_template).read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)

    def dead(copy, run):
        raise MlflowException("nobody is there")

    with monkeypatch.context() as patch:
        patch.setattr(delivery._RunCopy, "_open", dead)
        run(project)
    answer = CliRunner().invoke(cli, ["deliver"])
    assert answer.exit_code == 0, answer.output
    local = only_run(f"sqlite:///{store}")
    assert f"1 run delivered {local.info.run_id}" in answer.output
    there = only_run(server)
    assert there.data.tags[HERE_TAG] == local.info.run_id
    assert there.data.metrics == {"rows_seen": 3.0}
    assert there.info.status == "FINISHED"
    with monkeypatch.context() as patch:
        patch.setattr(delivery._RunCopy, "_open", dead)
        run(project, behaviour="fast")
    with pytest.raises(ValueError, match="asked to fail"):
        run(project, behaviour="fail")
    client = mlflow.MlflowClient(server)
    runs = client.search_runs([client.get_experiment_by_name("fisao_pipeline").experiment_id])
    assert sorted(one.info.status for one in runs) == ["FAILED", "FINISHED", "FINISHED"]


def test_the_command_says_where_there_is_no_server(toy_project):
    toy_project()
    answer = CliRunner().invoke(cli, ["deliver"])
    assert answer.exit_code == 1
    assert "names no server" in answer.output
