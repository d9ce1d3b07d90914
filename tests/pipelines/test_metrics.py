"""Metrics reach a real MLflow store with their steps, in few requests, and a store that fails stops nothing."""

import logging
import math
import time

import mlflow
import pytest

from fisao_pipeline.pipelines import metrics as module
from fisao_pipeline.pipelines.metrics import metrics_to_active_run


@pytest.fixture
def run(mlflow_store):
    mlflow.set_tracking_uri(mlflow_store)
    # By id: a session in the same process may have made an experiment of another store the current one.
    with mlflow.start_run(experiment_id="0") as active:
        yield active.info.run_id


@pytest.fixture
def requests(monkeypatch):
    """Sizes of the requests that are made."""
    sizes, real = [], mlflow.MlflowClient.log_batch

    def log_batch(self, run_id, metrics=(), **rest):
        sizes.append(len(metrics))
        return real(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", log_batch)
    return sizes


def history(run_id, name):
    return [(point.step, point.value) for point in mlflow.MlflowClient().get_metric_history(run_id, name)]


def test_every_point_arrives_with_its_step_in_few_requests(run, requests):
    with metrics_to_active_run("training.") as log:
        for step in range(1, 401):
            log({"step.policy_loss": 1 / step, "step.approx_kl": float(step), "step.grad_norm": 1.0}, step)
        log({"token_reward": 0.5}, 400)
    assert history(run, "training.step.policy_loss") == [(step, pytest.approx(1 / step)) for step in range(1, 401)]
    assert history(run, "training.step.approx_kl")[-1] == (400, 400.0)
    assert history(run, "training.token_reward") == [(400, 0.5)]
    assert len(requests) <= 4 and max(requests) <= 1000


def test_points_arrive_while_the_node_still_works(run, requests, monkeypatch):
    monkeypatch.setattr(module, "SEND_EVERY_SECONDS", 0.2)
    with metrics_to_active_run("training.") as log:
        log({"kl": 0.0}, 0)
        log({"kl": 1.0}, 1)
        assert history(run, "training.kl") == [(0, 0.0)], "the first at once, the second waits"
        time.sleep(0.25)
        log({"kl": 2.0}, 2)
        assert history(run, "training.kl") == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_what_waits_is_sent_when_the_node_fails(run):
    with pytest.raises(RuntimeError), metrics_to_active_run("training.") as log:
        log({"kl": 0.0}, 0)
        log({"kl": 1.0}, 1)
        raise RuntimeError
    assert history(run, "training.kl") == [(0, 0.0), (1, 1.0)]


def test_points_keep_the_time_they_were_measured_at(run):
    with metrics_to_active_run("training.") as log:
        log({"kl": 0.0}, 0)
        log({"kl": 1.0}, 1)
        measured = time.time() * 1000
        time.sleep(0.3)
    assert mlflow.MlflowClient().get_metric_history(run, "training.kl")[1].timestamp <= measured


def test_values_that_cannot_be_plotted_are_left_out(run):
    with metrics_to_active_run("") as log:
        log({"a": math.nan, "b": math.inf, "c": 1.0}, 0)
    assert mlflow.get_run(run).data.metrics == {"c": 1.0}


def test_without_a_run_nothing_is_logged(mlflow_store, requests):
    mlflow.set_tracking_uri(mlflow_store)
    with metrics_to_active_run("training.") as log:
        log({"kl": 1.0}, 0)
    assert requests == []


def test_a_store_that_fails_is_reported_once_and_stops_nothing(run, monkeypatch, caplog):
    monkeypatch.setattr(module, "SEND_EVERY_SECONDS", 0.0)
    calls = []

    def log_batch(*_, **__):
        calls.append(1)
        raise OSError("no disk")

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", log_batch)
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"), metrics_to_active_run("training.") as log:
        for step in range(5):
            log({"kl": 1.0}, step)
    assert len(calls) == 1
    assert [record.message for record in caplog.records] == [
        "MLflow takes no metrics (no disk); those of this node from now on are not logged."
    ]
