"""A trained adapter is a logged model of its run and a version in the registry: once, whole, and with the way back."""

import json
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from safetensors.torch import load_file
from tests.adapter_project import REGISTERED, with_adapter
from tests.runs.test_lineage import FORCED, listener, provenance_of, run  # noqa: F401 - a fixture

from fisao_pipeline.commands.cli import cli


@pytest.fixture
def project(toy_project):
    return with_adapter(toy_project)


@pytest.fixture
def client(mlflow_store):
    return mlflow.MlflowClient(mlflow_store)


def tracked(client, session):
    experiments = [one.experiment_id for one in client.search_experiments()]
    (found,) = client.search_runs(experiments, f"tags.kedro_session_id = '{session}'")
    return found


def versions(client):
    return client.search_model_versions(f"name = '{REGISTERED}'")


def put_out(one):
    return [model.model_id for model in one.outputs.model_outputs] if one.outputs else []


def test_an_adapter_is_a_model_of_its_run_and_a_registered_version(project, client):
    session = run(project)
    one, record = tracked(client, session), provenance_of(project, "policy_adapter", session)
    (model_id,) = put_out(one)
    model, (version,) = client.get_logged_model(model_id), versions(client)
    assert (model.name, model.model_type, model.status) == ("policy_adapter", "adapter", "READY")
    assert model.source_run_id == version.run_id == one.info.run_id
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": REGISTERED, "version": int(version.version)}]
    command = f"python -m fisao_pipeline lineage policy_adapter@{session} --env=local"
    assert command in version.description
    told = {"artifact": "policy_adapter", "version": session, "content": record["content"], "lineage": command}
    assert version.tags == told | {"environment": "local"}
    assert version.tags.items() <= model.tags.items()
    assert "somebody" not in str([model, model.tags, version.name, version.tags, version.description])


def test_a_download_from_the_registry_is_the_whole_adapter(project, client):
    session = run(project)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{REGISTERED}/1"))
    saved = project / "data" / "policy_adapter" / session / "policy_adapter"
    for file in saved.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes(), file.name
    assert load_file(folder / "adapter_model.safetensors")["lora_A"].tolist() == [4.0] * 4
    records = json.loads((folder / "lineage.json").read_text())
    assert [one["dataset"] for one in records] == ["policy_adapter", "count", "table"]
    assert records[0] == provenance_of(project, "policy_adapter", session)


def test_the_way_back_is_the_command_that_the_version_names(project, client):
    run(project)
    words = versions(client)[0].tags["lineage"].removeprefix("python -m fisao_pipeline ").split()
    (project / "conf" / "local").mkdir(exist_ok=True)
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "table@" in done.output


def test_the_same_adapter_is_not_registered_twice(project, client):
    """Kept by a run, or made once more with the same content: each run that made it has put out the one model."""
    first, kept, forced = run(project), run(project), run(project, runtime=FORCED | {"registered_model": REGISTERED})
    assert len(versions(client)) == 1
    outputs = {session: put_out(tracked(client, session)) for session in (first, kept, forced)}
    assert outputs[first] == outputs[forced] and len(outputs[first]) == 1
    assert outputs[kept] == []
    other = run(project, behaviour="anything else")
    assert [one.tags["version"] for one in versions(client)] == [other, first]
    assert put_out(tracked(client, other)) != outputs[first]


def test_a_run_that_reads_an_adapter_has_it_as_an_input(project, client):
    trained = run(project)
    read = run(project, options={"node_names": ["answer"]})
    one = client.get_run(tracked(client, read).info.run_id)  # a search leaves such inputs out
    assert [model.model_id for model in one.inputs.model_inputs] == put_out(tracked(client, trained))
    assert one.inputs.dataset_inputs[0].dataset.name == "policy_adapter"


@pytest.mark.parametrize(
    ("runtime", "registered", "weights"),
    [({"registered_model": None}, 0, True), ({"adapter_weights_to_mlflow": False}, 1, False)],
)
def test_neither_the_registry_nor_a_second_copy_is_forced_on_anyone(project, client, runtime, registered, weights):
    one = tracked(client, run(project, runtime=runtime))
    files = {Path(file.path).name for file in client.list_logged_model_artifacts(*put_out(one))}
    wanted = {"adapter_config.json", "README.md", "lineage.json"}
    assert files == (wanted | {"adapter_model.safetensors"} if weights else wanted)
    assert len(client.search_model_versions(f"name = '{REGISTERED}'")) == registered


def test_a_model_that_lacks_files_is_failed_and_the_next_run_makes_it(
    project,
    client,
    monkeypatch,
    listener,  # noqa: F811
):
    def full(client, model_id, path, artifact_path=None):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_model_artifact", full)
        session = run(project, listener=listener)
    assert tracked(client, session).info.status == "FINISHED"
    (warning,) = [message for message in listener.messages if message.startswith("WARNING")]
    assert "No space left on device" in warning
    assert versions(client) == [] and put_out(tracked(client, session)) == []
    experiment = tracked(client, session).info.experiment_id
    assert [model.status for model in client.search_logged_models([experiment])] == ["FAILED"]
    again = run(project, options={"node_names": ["train"]})
    (model_id,) = put_out(tracked(client, again))
    assert client.get_logged_model(model_id).status == "READY" and len(versions(client)) == 1


def test_a_store_without_a_registry_costs_a_warning_and_nothing_else(project, client, monkeypatch, listener):  # noqa: F811
    def absent(client, *_arguments, **_options):
        raise MlflowException("no registry here", error_code=2)

    monkeypatch.setattr(mlflow.MlflowClient, "search_model_versions", absent)
    session = run(project, listener=listener)
    (warning,) = [message for message in listener.messages if message.startswith("WARNING")]
    assert "no registry here" in warning
    one = tracked(client, session)
    assert one.info.status == "FINISHED" and len(put_out(one)) == 1
    assert one.data.tags["output.answers"] == session
