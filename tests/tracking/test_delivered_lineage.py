"""What a run read and the adapter that it made reach a server too: once, with files, or one warning where it cannot."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND
from tests.adapter_project import REGISTERED, with_adapter
from tests.runs.test_lineage import run
from tests.tracking.test_delivery import copies, deliver_to, here, server  # noqa: F401 - fixtures

from fisao_pipeline.tracking.adapters import log_adapter
from fisao_pipeline.tracking.delivery import HERE_TAG

SENDING = (
    "create_experiment",
    "create_run",
    "log_batch",
    "log_inputs",
    "create_logged_model",
    "log_model_artifact",
    "finalize_logged_model",
    "log_outputs",
    "create_registered_model",
    "create_model_version",
    "set_logged_model_tags",
    "set_terminated",
)
REQUESTS = 14  # that `adapter` takes; the first three and the last are tested in test_delivery.py


@pytest.fixture
def adapter(here, tmp_path):  # noqa: F811
    """A run here that read a table and made an adapter."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "pocket vlm"}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    experiment = here.create_experiment("toy", artifact_location=(tmp_path / "artifacts").as_uri())
    run_id = here.create_run(experiment, run_name="parent").info.run_id
    table = Dataset("table", "0" * 36, "local", '{"uri": "data/table.parquet"}')
    here.log_inputs(run_id, [DatasetInput(table, [InputTag("version", "v1")])])
    record = {"dataset": "policy_adapter", "version": "v1", "content": "sha256:1"}
    log_adapter(here, run_id, folder, [record], registered_model="fisao-{base_model}", weights=True)
    here.set_terminated(run_id)
    return run_id


@pytest.fixture
def there(server):  # noqa: F811
    return mlflow.MlflowClient(server, server)


def model_of(client, run_id):
    (output,) = client.get_run(run_id).outputs.model_outputs
    return client.get_logged_model(output.model_id)


def files_of(client, model_id):
    return sorted(Path(file.path).name for file in client.list_logged_model_artifacts(model_id))


def is_there_once(client, run_id):
    model = model_of(client, run_id)
    assert (model.status, model.source_run_id) == ("READY", run_id)
    assert files_of(client, model.model_id) == ["adapter_config.json", "adapter_model.safetensors", "lineage.json"]
    (version,) = client.search_model_versions(f"name = '{REGISTERED}'")
    assert version.run_id == run_id
    assert version.tags["artifact"] == "policy_adapter"
    (read,) = client.get_run(run_id).inputs.dataset_inputs
    assert [(tag.key, tag.value) for tag in read.tags] == [("version", "v1")]


@pytest.mark.parametrize("call", range(4, REQUESTS))
def test_after_a_failure_at_any_request_another_process_sends_the_rest_once(
    adapter,
    there,
    server,  # noqa: F811
    mlflow_store,
    tmp_path,
    monkeypatch,
    call,
):
    """Each request is done and its answer lost, which is the worse of the two ways to fail."""
    made = []
    with monkeypatch.context() as patch:
        for name in SENDING:
            original = getattr(mlflow.MlflowClient, name)

            def lost(client, *arguments, _real=original, **options):
                answer = _real(client, *arguments, **options)
                if client.tracking_uri == server:
                    made.append(_real.__name__)
                    if len(made) == call:
                        raise MlflowException("the line is dead")
                return answer

            patch.setattr(mlflow.MlflowClient, name, lost)
        done, error = deliver_to(server, mlflow_store, tmp_path, adapter).deliver()
    assert done == [] and "the line is dead" in str(error), made
    done, error = deliver_to(server, mlflow_store, tmp_path).deliver()
    assert (done, error) == ([adapter], None)
    is_there_once(there, copies(server)["parent"].info.run_id)


def test_no_request_is_left_out_of_the_test_above(adapter, there, server, mlflow_store, tmp_path, monkeypatch):  # noqa: F811
    made = []
    for name in SENDING:
        original = getattr(mlflow.MlflowClient, name)

        def counted(client, *arguments, _real=original, **options):
            made.append(_real.__name__) if client.tracking_uri == server else None
            return _real(client, *arguments, **options)

        monkeypatch.setattr(mlflow.MlflowClient, name, counted)
    deliver_to(server, mlflow_store, tmp_path, adapter).deliver()
    assert len(made) == REQUESTS and set(made) == set(SENDING), made


@pytest.mark.parametrize(
    ("unknown", "said"),
    [
        ("log_inputs", "dataset inputs"),
        ("search_logged_models", "logged models"),
        ("search_model_versions", "registered models"),
    ],
)
def test_what_a_server_does_not_know_is_told_once_and_the_rest_arrives(
    adapter,
    here,  # noqa: F811
    there,
    server,  # noqa: F811
    mlflow_store,
    tmp_path,
    monkeypatch,
    caplog,
    unknown,
    said,
):
    second = here.create_run(here.get_run(adapter).info.experiment_id, run_name="second").info.run_id
    here.log_inputs(second, here.get_run(adapter).inputs.dataset_inputs)
    here.log_outputs(second, here.get_run(adapter).outputs.model_outputs)
    here.set_terminated(second)
    real = getattr(mlflow.MlflowClient, unknown)

    def refuse(client, *arguments, **options):
        if client.tracking_uri == server:
            raise MlflowException("404", ENDPOINT_NOT_FOUND)
        return real(client, *arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, unknown, refuse)
    one = deliver_to(server, mlflow_store, tmp_path, adapter)
    one.start(second, beside=False)
    with caplog.at_level("WARNING", "fisao_pipeline"):
        done, error = one.deliver()
    assert (sorted(done), error) == (sorted([adapter, second]), None)
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("fisao_pipeline")]
    assert f"takes no {said}" in warning
    monkeypatch.undo()
    arrived = there.get_run(copies(server)["parent"].info.run_id)
    assert arrived.info.status == "FINISHED"
    assert len(arrived.inputs.dataset_inputs) == (unknown != "log_inputs")
    assert len(arrived.outputs.model_outputs) == (unknown != "search_logged_models")


@pytest.fixture
def real_server(mlflow_template, tmp_path):
    """The URI of `mlflow server`, in a process of its own."""
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(Path(mlflow_template).read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}/artifacts"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        uri = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.mark.slow
def test_a_run_with_a_real_server(toy_project, real_server, monkeypatch):
    """Over HTTP: what a run read and made is there when it has ended, and twice delivered is there once."""
    project = with_adapter(toy_project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", real_server)
    first, second = run(project), run(project, runtime={"deterministic": False, "force": True})
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    local, client = mlflow.MlflowClient(f"sqlite:///{project}/data/mlflow/mlflow.db"), mlflow.MlflowClient(real_server)
    experiment = client.get_experiment_by_name("fisao_pipeline").experiment_id

    def arrived(session):
        (one,) = client.search_runs([experiment], f"tags.kedro_session_id = '{session}'")
        return client.get_run(one.info.run_id)

    one = arrived(first)
    same = local.get_run(one.data.tags[HERE_TAG])
    assert one.info.status == "FINISHED"
    assert {each.dataset.name: each.dataset.digest for each in one.inputs.dataset_inputs} == {
        each.dataset.name: each.dataset.digest for each in same.inputs.dataset_inputs
    }
    assert set(map(str, (each.dataset.name for each in one.inputs.dataset_inputs))) == {
        "table",
        "count",
        "policy_adapter",
    }
    model = model_of(client, one.info.run_id)
    assert [each.model_id for each in one.inputs.model_inputs] == [model.model_id]
    (version,) = client.search_model_versions(f"name = '{REGISTERED}'")
    assert version.run_id == one.info.run_id and f"lineage policy_adapter@{first}" in version.description
    downloaded = Path(mlflow.artifacts.download_artifacts(f"models:/{REGISTERED}/1", tracking_uri=real_server))
    weights = Path("policy_adapter", "adapter_model.safetensors")
    saved = project / "data" / "policy_adapter" / first / weights
    assert (downloaded / weights.name).read_bytes() == saved.read_bytes()
    assert model_of(client, arrived(second).info.run_id).model_id == model.model_id
