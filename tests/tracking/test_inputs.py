"""What MLflow tells of a run's inputs and contents: enough to find the run by any of them, and nothing of this disk."""

import json

import mlflow
import pytest
from mlflow.data import get_source
from tests.runs.test_lineage import FORCED, only_run, provenance_of, run

from fisao_pipeline.artifacts.file_memory import sha256
from fisao_pipeline.artifacts.provenance import seal
from fisao_pipeline.datasets.contents import content_of_files
from fisao_pipeline.tracking.inputs import digest_of

RECORDED, REPLACED = "[1, 2]", "[3]"

LISTING = """
numbers:
  type: fisao_pipeline.datasets.json_files.JsonFilesDataset
  filepath: {place}
"""


def inputs_of(tracked):
    return {one.dataset.name: one for one in tracked.inputs.dataset_inputs}


def tags_of(one):
    return {tag.key: tag.value for tag in one.tags}


def test_what_a_node_reads_is_an_input_of_the_run(toy_project, mlflow_store):
    project = toy_project()
    version = run(project)
    tracked = only_run(mlflow_store)
    content = provenance_of(project, "table.parquet", version)["content"]
    (table,) = tracked.inputs.dataset_inputs
    assert (table.dataset.name, table.dataset.digest) == ("table", content.removeprefix("sha256:")[:36])
    assert get_source(table.dataset).uri == "data/table.parquet"
    assert tags_of(table) == {
        "mlflow.data.context": "count_rows",
        "nodes": "count_rows",
        "content": content,
        "version": version,
        "path": f"data/table.parquet/{version}/table.parquet",
        "mlflow_run_id": tracked.info.run_id,
    }


def test_an_input_names_the_run_that_made_it(toy_project, mlflow_store):
    """And its version: MLflow keeps one source for what has the same content."""
    project = toy_project()
    first = run(project)
    maker = only_run(mlflow_store).info.run_id
    second = run(project, runtime=FORCED)
    third = run(project, options={"node_names": ["count_rows"], "load_versions": {"table": first}})
    client = mlflow.MlflowClient(mlflow_store)
    experiment = client.get_experiment_by_name("fisao_pipeline").experiment_id
    by_session = {one.data.tags["kedro_session_id"]: one for one in client.search_runs([experiment])}
    tags = {session: tags_of(inputs_of(by_session[session])["table"]) for session in (first, second, third)}
    assert tags[third]["mlflow_run_id"] == maker != by_session[third].info.run_id
    assert tags[second]["mlflow_run_id"] == by_session[second].info.run_id
    assert [tags[session]["version"] for session in (first, second, third)] == [first, second, first]
    assert tags[second]["path"].startswith(f"data/table.parquet/{second}/")


def test_documented_searches_find_the_run_by_version_and_by_content(toy_project, mlflow_store):
    project = toy_project()
    first = run(project)
    made = only_run(mlflow_store).info.run_id
    content = provenance_of(project, "count.json", first)["content"]
    run(project)
    other = run(project, block={"ppo": {"clip_range": 0.5, "sizes": []}, "note": ""}, behaviour="other", runtime=FORCED)
    assert provenance_of(project, "count.json", other)["content"] == content
    client = mlflow.MlflowClient(mlflow_store)
    experiment = client.get_experiment_by_name("fisao_pipeline").experiment_id

    def found(query):
        return {one.data.tags["kedro_session_id"] for one in client.search_runs([experiment], query)}

    everything = found("")
    (kept,) = everything - {first, other}
    assert found(f"tags.`output.count` = '{first}'") == {first}
    assert found(f"tags.`kept.count` = '{first}'") == {kept}
    assert found(f"tags.`content.count` = '{content}'") == everything
    assert found(f"tags.`content.count` = '{content}' and tags.`output.count` LIKE '%'") == {first, other}
    assert found(f"tags.`input.table` = '{first}'") == {first}
    digest = inputs_of(client.get_run(made))["table"].dataset.digest
    assert found(f"dataset.name = 'table' and dataset.digest = '{digest}'") == {first, other}
    assert found(f"dataset.digest LIKE '{digest[:12]}%'") == {first, other}
    assert found("dataset.context = 'count_rows'") == {first, other}


def reading_numbers(project, place):
    """Have the toy project's first node read a JSON file, too."""
    catalog = project / "conf" / "base" / "catalog.yml"
    catalog.write_text(catalog.read_text() + LISTING.format(place=place))
    nodes = next(project.glob("src/*/nodes.py"))
    nodes.write_text(
        nodes.read_text()
        .replace("def make_table(block: Block)", "def make_table(block: Block, numbers)")
        .replace('["params:block"], "table"', '["params:block", "numbers"], "table"')
    )


@pytest.mark.parametrize("inside", [True, False])
def test_what_has_no_version_is_told_by_content_and_place(toy_project, mlflow_store, tmp_path, inside):
    """Of files elsewhere the name alone: no path that tells of this disk or its users."""
    project = toy_project()
    folder = project / "data" if inside else tmp_path / "home" / "somebody"
    folder.mkdir(parents=True)
    (folder / "numbers.json").write_text("[1, 2]")
    reading_numbers(project, "data/numbers.json" if inside else (folder / "numbers.json").as_posix())
    version = run(project)
    content = provenance_of(project, "table.parquet", version)["input_contents"]["numbers"]
    tracked = only_run(mlflow_store)
    numbers = inputs_of(tracked)["numbers"]
    assert tags_of(numbers) == {"mlflow.data.context": "make_table", "nodes": "make_table", "content": content}
    assert numbers.dataset.digest == digest_of(content)
    assert json.loads(numbers.dataset.source) == {"uri": "data/numbers.json" if inside else "…/numbers.json"}
    assert tracked.data.tags["content.numbers"] == content
    assert "somebody" not in str(tracked.inputs.to_dictionary())


def recorded_numbers(project, there: str, **edited: str) -> str:
    """A file with a record of RECORDED beside it, both perhaps another by now; the content that the record tells."""
    reading_numbers(project, "data/numbers.json")
    place = project / "data" / "numbers.json"
    place.parent.mkdir()
    place.write_text(RECORDED)
    content = content_of_files({"0000 numbers.json": place}, sha256)
    record = {"inputs": {}, "content": content, "mlflow_run_id": "a" * 32}
    place.with_name(".numbers.json.provenance.json").write_text(json.dumps(record | {"seal": seal(record)} | edited))
    place.write_text(there)
    return content


@pytest.mark.parametrize(("there", "known"), [(RECORDED, True), (REPLACED, False)])
def test_a_file_that_was_replaced_is_not_of_the_run_that_made_the_one_before(toy_project, mlflow_store, there, known):
    project = toy_project()
    content = recorded_numbers(project, there)
    run(project)
    tags = tags_of(inputs_of(only_run(mlflow_store))["numbers"])
    assert (tags["content"] == content, tags.get("mlflow_run_id") == "a" * 32) == (known, known)
    assert ("mlflow_run_id" in tags) == known


def test_a_record_that_was_edited_lends_no_run(toy_project, mlflow_store):
    project = toy_project()
    content = recorded_numbers(project, RECORDED, mlflow_run_id="f" * 32)
    run(project)
    tags = tags_of(inputs_of(only_run(mlflow_store))["numbers"])
    assert tags["content"] == content and "mlflow_run_id" not in tags


@pytest.mark.parametrize(
    ("content", "digest"),
    [
        ("sha256:" + "0123456789abcdef" * 4, "0123456789abcdef0123456789abcdef0123"),
        ('sha256:12961a4f43e6a6f3 ["float32", null, {}]', "12961a4f43e6a6f3"),
        ("c" * 40 + ' ["auto"]', "c" * 36),
    ],
)
def test_digests_are_beginnings_of_what_records_say(content, digest):
    assert digest_of(content) == digest
