"""What is refused before the first node, and what must not be."""

import json
import shutil
import sys
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project
from tests.smoke_project import Smoke

from fisao_pipeline.runs.preflight import NotReadyError


def run(project: Path, options=None, **parameters):
    bootstrap_project(project)
    with settings.SESSION_CLASS.create(project_path=project, runtime_params=parameters) as session:
        session.run(**(options or {}))
        return session.session_id


def runs(uri: str) -> list:
    client = mlflow.MlflowClient(uri)
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def test_a_misspelt_block_is_refused_before_any_node(toy_project, mlflow_store):
    project = toy_project()
    with pytest.raises(NotReadyError, match="no block of parameters 'behavior'; did you mean 'behaviour'"):
        run(project, behavior="fail")
    assert not (project / "data").exists()
    assert runs(mlflow_store) == []


def test_a_misspelt_block_of_an_environment_is_refused(toy_project, mlflow_store):
    project = toy_project({"conf/local/parameters.yml": "blok: {{note: x}}\n_shared: 1\n"})
    with pytest.raises(NotReadyError, match="'blok'; did you mean 'block'") as refusal:
        run(project, options={"pipeline_names": ["toy"]})
    assert "_shared" not in str(refusal.value)


def test_a_missing_artifact_is_named_with_the_command_that_makes_it(toy_project, mlflow_store):
    project = toy_project()
    with pytest.raises(NotReadyError) as refusal:
        run(project, options={"node_names": ["count_rows"]}, behaviour="work")
    wanted = "- 'table' is missing: `kedro run --pipelines=__default__ --params=behaviour=work` makes it"
    assert wanted in str(refusal.value).splitlines()
    assert runs(mlflow_store) == []


def test_a_missing_version_is_named(toy_project, mlflow_store):
    project = toy_project()
    run(project)
    version = "2001-01-01T00.00.00.000Z"
    with pytest.raises(NotReadyError, match=f"'table' has no version {version}"):
        run(project, options={"node_names": ["count_rows"], "load_versions": {"table": version}})


def test_what_no_missing_output_needs_may_be_missing(toy_project, mlflow_store):
    project = toy_project()
    run(project)
    shutil.rmtree(project / "data" / "table.parquet")
    run(project, options={"node_names": ["count_rows"], "only_missing_outputs": True})


def edit_number(table: Path) -> None:
    """One other number, as somebody may type it."""
    import pandas as pd

    rows = pd.read_parquet(table)
    rows.loc[0, "number"] += 1
    rows.to_parquet(table)


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("table.parquet", edit_number, "its content is not what was saved"),
        (
            "provenance.json",
            lambda path: path.write_text(path.read_text() + "x"),
            "provenance.json cannot be read (JSO",
        ),
        (
            "provenance.json",
            lambda path: path.write_text(path.read_text().replace("make_table", "make_tabel")),
            "provenance.json was edited",
        ),
    ],
    ids=["number edited", "record cut", "record edited"],
)
def test_a_corrupt_input_is_refused_with_the_command_that_makes_it_again(toy_project, mlflow_store, file, damage, said):
    project = toy_project()
    version = run(project)
    tracked = len(runs(mlflow_store))
    damage(project / "data" / "table.parquet" / version / file)
    with pytest.raises(NotReadyError) as refusal:
        run(project, options={"node_names": ["count_rows"]}, behaviour="work")
    (line,) = (line for line in str(refusal.value).splitlines() if "table" in line)
    assert line.startswith(f"- 'table' is corrupt ({said}")
    assert line.endswith("): `kedro run --pipelines=__default__ --params=behaviour=work` makes it again")
    assert len(list((project / "data" / "count.json").iterdir())) == 1 and len(runs(mlflow_store)) == tracked
    run(project)
    run(project, options={"node_names": ["count_rows"]})


def test_a_corrupt_version_that_was_asked_for_is_refused(toy_project, mlflow_store):
    """The latest one is whole, and to make it again would not help."""
    project = toy_project()
    first, second = run(project), run(project, runtime={"deterministic": False, "force": True})
    edit_number(project / "data" / "table.parquet" / first / "table.parquet")
    run(project, options={"node_names": ["count_rows"]})
    with pytest.raises(NotReadyError, match=f"'table' {first} is corrupt .*: load another version"):
        run(project, options={"node_names": ["count_rows"], "load_versions": {"table": first}})
    run(project, options={"node_names": ["count_rows"], "load_versions": {"table": second}})


def test_a_corrupt_input_that_no_pipeline_makes_is_refused(toy_project, mlflow_store):
    project = toy_project()
    version = run(project)
    edit_number(project / "data" / "table.parquet" / version / "table.parquet")
    registry = next(project.glob("src/*/pipeline_registry.py"))
    only = 'create_pipeline().filter(node_names=["count_rows"])'
    registry.write_text(
        registry.read_text().replace("create_pipeline()}", f"{only}}}").replace(": create_pipeline(),", f": {only},")
    )
    for name in [name for name in sys.modules if name.startswith("toy_")]:
        del sys.modules[name]
    with pytest.raises(NotReadyError, match=f"'table' is corrupt .*: put back what was saved as {version}"):
        run(project)


def test_an_input_without_a_record_is_taken_as_it_is(toy_project, mlflow_store):
    project = toy_project()
    version = run(project)
    (project / "data" / "table.parquet" / version / "provenance.json").unlink()
    edit_number(project / "data" / "table.parquet" / version / "table.parquet")
    run(project, options={"node_names": ["count_rows"]})


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, mlflow_template) -> Smoke:
    return Smoke.make(tmp_path_factory.mktemp("smoke") / "project", mlflow_template)


@pytest.fixture(autouse=True)
def own_store(request, no_stray_mlflow_store, monkeypatch):
    if "smoke" in request.fixturenames:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("smoke").tracking_uri)


def test_the_command_line_says_all_that_is_missing_without_a_traceback(smoke, monkeypatch):
    monkeypatch.chdir(smoke.root)
    bootstrap_project(smoke.root)
    arguments = ["--env=smoke", "--pipelines=policy_training", "--params=policy_training.rounds=1"]
    done = CliRunner().invoke(find_run_command("fisao_pipeline"), arguments)
    assert done.exit_code == 1
    lines = done.output.splitlines()
    start = lines.index("Error: Nothing was run:")
    command = "`kedro run --env=smoke --pipelines={} --params=policy_training.rounds=1`"
    assert lines[start + 1].startswith("- Image folder ")
    assert lines[start + 2 :] == [
        "- 'annotated_categories', 'image_manifest', 'prompts' are missing: "
        + command.format("image_ingestion")
        + " makes them",
        "- 'rejected_prompts', 'responses' are missing: " + command.format("response_sampling") + " makes them",
        "- 'token_rewards', 'verifier_baseline' are missing: " + command.format("reward_annotation") + " makes them",
    ]


def test_what_a_user_brings_is_looked_for_before_the_start(smoke):
    with pytest.raises(NotReadyError) as refusal:
        smoke.run("train")
    said = str(refusal.value)
    assert said.count("pocket_world --tags=scenes") == 3
    assert "Image folder" in said and "annotations.json does not exist" in said and "prompts.jsonl" in said


def test_a_missing_model_is_found_before_the_start(smoke):
    folder = smoke.root / "data" / "smoke" / "06_models" / "pocket_verifier"
    aside = folder.with_name("aside")
    folder.rename(aside)
    try:
        with pytest.raises(NotReadyError, match=r"pocket_verifier.*Build the pocket models with"):
            smoke.run("train")
    finally:
        aside.rename(folder)


def test_inputs_that_may_be_left_out_are_not_missed(smoke):
    """Scenes need no input, annotations and prompts may be null, a study's folders come with its first row."""
    smoke.run("pocket_world", tags=["scenes"])
    kind = "fisao_pipeline.datasets.json_files.JsonFilesDataset"
    entries = {name: {"type": kind, "filepath": None} for name in ("raw_annotations", "raw_prompts")}
    (smoke.root / "conf" / "smoke" / "catalog.yml").write_text(json.dumps(entries))
    smoke.run("image_ingestion")
    with pytest.raises(NotReadyError) as refusal:
        smoke.run("seed_study", policy_trainin={"rounds": 1})
    assert "study_rows" not in str(refusal.value) and "missing" not in str(refusal.value)
