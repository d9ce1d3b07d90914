"""`runtime.deterministic` and `cuda_graphs`: as asked for while a run lasts, as before however it ends."""

import os

import pytest
import torch
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project

from fisao_pipeline.models import steps
from fisao_pipeline.runs.determinism import REPEATABLE, WORKSPACE, deterministic_algorithms
from fisao_pipeline.runs.preflight import NotReadyError

LOOKING_NODES = """
    import os

    import torch
    from kedro.pipeline import Node, Pipeline

    from fisao_pipeline.models import steps


    def look(behaviour: str):
        found = {{
            "algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn": torch.backends.cudnn.deterministic,
            "benchmark": torch.backends.cudnn.benchmark,
            "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            "graphs": not steps._is_off,
        }}
        if behaviour == "fail":
            raise ValueError(str(found))
        return found


    def create_pipeline():
        return Pipeline([Node(look, "params:behaviour", "found", name="look")])
"""
ON = {"algorithms": True, "cudnn": True, "benchmark": False, "workspace": ":4096:8", "graphs": True}


def state() -> dict:
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn": torch.backends.cudnn.deterministic,
        "benchmark": torch.backends.cudnn.benchmark,
        "workspace": os.environ.get(WORKSPACE),
        "graphs": not steps._is_off,
    }


@pytest.fixture
def looking_project(toy_project, monkeypatch):
    """A project of one node that tells what it found, with other settings than the usual ones before it."""
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    return toy_project(
        {
            "src/{package}/nodes.py": LOOKING_NODES,
            "conf/base/parameters.yml": "behaviour: work\nruntime: {{deterministic: false}}\n",
            "conf/base/catalog.yml": "{{}}",
        }
    )


def run(project, **parameters):
    bootstrap_project(project)
    with settings.SESSION_CLASS.create(project_path=project, runtime_params=parameters) as session:
        return session.run()["found"].load()


def test_it_is_off_unless_asked_for(looking_project, mlflow_store):
    before = state()
    assert run(looking_project) == before == state()
    assert before["algorithms"] is False


def test_it_is_on_within_the_run_and_off_after_it(looking_project, mlflow_store):
    import mlflow

    before = state()
    assert run(looking_project, runtime={"deterministic": True}) == ON
    assert state() == before
    client = mlflow.MlflowClient(mlflow_store)
    (tracked,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert tracked.data.tags["deterministic"] == "true"


def test_it_is_off_after_a_run_that_failed(looking_project, mlflow_store):
    before = state()
    with pytest.raises(ValueError, match="'algorithms': True, 'cudnn': True"):
        run(looking_project, behaviour="fail", runtime={"deterministic": True})
    assert state() == before


def test_graphs_are_off_within_a_run_that_wants_none(looking_project, mlflow_store):
    before = state()
    assert run(looking_project, runtime={"cuda_graphs": False}) == {**before, "graphs": False}
    assert state() == before and before["graphs"]
    with pytest.raises(ValueError, match="'graphs': False"):
        run(looking_project, behaviour="fail", runtime={"cuda_graphs": False})
    assert state() == before


def test_a_process_that_has_used_its_gpu_is_refused_with_the_remedy(looking_project, mlflow_store, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    said = r"set too late.*export CUBLAS_WORKSPACE_CONFIG=:4096:8"
    with pytest.raises(NotReadyError, match=said):
        run(looking_project, runtime={"deterministic": True})
    with pytest.raises(RuntimeError, match=said), deterministic_algorithms():
        pass
    assert not torch.are_deterministic_algorithms_enabled()
    assert run(looking_project)["algorithms"] is False
    for value in REPEATABLE:
        monkeypatch.setenv(WORKSPACE, value)
        assert run(looking_project, runtime={"deterministic": True}) == {**ON, "workspace": value}


def test_a_workspace_that_is_not_repeatable_is_refused(looking_project, mlflow_store, monkeypatch):
    monkeypatch.setenv(WORKSPACE, ":0:0")
    with pytest.raises(NotReadyError, match="CUBLAS_WORKSPACE_CONFIG is ':0:0' and not one of :4096:8, :16:8"):
        run(looking_project, runtime={"deterministic": True})


@pytest.mark.parametrize("block", [{"determinstic": True}, {"deterministic": "perhaps"}])
def test_a_misspelt_setting_is_refused(looking_project, mlflow_store, block):
    with pytest.raises(NotReadyError, match=rf"- runtime\.{next(iter(block))}: "):
        run(looking_project, runtime=block)
