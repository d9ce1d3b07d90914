"""A row's run in a real MLflow store: nested, ended as what happened, and never a reason to crash."""

import logging

import mlflow
import pytest

from fisao_pipeline.pipelines.child_runs import child_run
from fisao_pipeline.runs.session import Terminated


@pytest.fixture
def parent(mlflow_store):
    mlflow.set_tracking_uri(mlflow_store)
    # By id: a session in the same process may have made an experiment of another store the current one.
    with mlflow.start_run(experiment_id="0") as run:
        yield run.info.run_id


def test_a_child_has_its_parent_tags_and_parameters(parent):
    parameters = {"policy_training.ppo.kl_coef": 0.5, "policy_training.lora.targets": ["q", "v"], "x": None}
    with child_run("arm, seed 0", "seed-0-ab", {"study.arm": "arm"}, parameters) as run_id:
        assert mlflow.active_run().info.run_id == run_id != parent
        mlflow.log_metric("kl", 1.0)
    assert mlflow.active_run().info.run_id == parent
    child = mlflow.get_run(run_id)
    assert child.info.status == "FINISHED"
    assert child.data.tags["mlflow.parentRunId"] == parent
    assert child.data.tags["study.arm"] == "arm"
    assert child.data.tags["study.row"] == "seed-0-ab"
    assert child.data.params == {"policy_training.ppo.kl_coef": "0.5", "policy_training.lora.targets": "['q', 'v']"}
    assert mlflow.get_run(parent).data.metrics == {}


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (Terminated, "KILLED"), (ValueError, "FAILED")]
)
def test_a_child_that_does_not_finish_says_so(parent, error, status):
    with pytest.raises(error), child_run("x", "k", {}, {}) as run_id:
        raise error
    assert mlflow.get_run(run_id).info.status == status
    assert mlflow.active_run().info.run_id == parent


def test_what_a_killed_process_left_running_ends_when_its_row_is_run_again(parent):
    client = mlflow.MlflowClient()
    experiment = mlflow.get_run(parent).info.experiment_id
    same, other = (client.create_run(experiment, tags={"study.row": key}).info.run_id for key in ("k", "another"))
    with child_run("x", "k", {}, {}) as run_id:
        assert mlflow.get_run(same).info.status == "KILLED"
        assert mlflow.get_run(run_id).info.status == "RUNNING"
    assert mlflow.get_run(other).info.status == "RUNNING"


def test_without_a_run_there_is_no_child(mlflow_store):
    mlflow.set_tracking_uri(mlflow_store)
    with child_run("x", "k", {}, {}) as run_id:
        assert run_id is None
        assert mlflow.active_run() is None


@pytest.mark.parametrize("broken", ["start_run", "log_params", "end_run"])
def test_an_mlflow_that_fails_is_a_warning(parent, monkeypatch, caplog, broken):
    def fail(*_, **__):
        raise OSError("no disk")

    monkeypatch.setattr(mlflow, broken, fail)
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"), child_run("x", "k", {}, {"a": 1}):
        worked = True
    monkeypatch.undo()
    assert worked
    assert [record.message for record in caplog.records] == ["MLflow did not take the record of this row: no disk"]
    while mlflow.active_run().info.run_id != parent:
        mlflow.end_run()
