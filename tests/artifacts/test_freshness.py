"""What a second run leaves out and why, seen through real runs of a small project."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest
import torch
from click.testing import CliRunner
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project
from safetensors.torch import save_file
from tests.runs.test_lineage import FORCED, listener, only_run, run  # noqa: F401 - a fixture

from fisao_pipeline.artifacts.evidence import EvidenceOf
from fisao_pipeline.artifacts.file_memory import MEMORY_FILE, FileMemory
from fisao_pipeline.commands.cli import cli
from fisao_pipeline.commands.project import open_project
from fisao_pipeline.commands.status import lines_of, status_of
from fisao_pipeline.params.flat import flatten_parameters, masked
from fisao_pipeline.runs.preflight import NotReadyError

MEMORY_NODES = """
    import pandas as pd
    from kedro.pipeline import Node, Pipeline

    ROWS = 3


    def draw(behaviour: str):
        return list(range(ROWS))


    def tabulate(numbers):
        return pd.DataFrame(dict(number=numbers)), len(numbers)


    def count(size):
        return dict(rows=size)


    def check(counted):
        print("checked", counted)


    def create_pipeline():
        return Pipeline([
            Node(draw, ["params:behaviour"], "numbers", name="draw"),
            Node(tabulate, ["numbers"], ["table", "size"], name="tabulate"),
            Node(count, ["size"], "count", name="count"),
            Node(check, ["count"], None, name="check"),
        ])
"""


def versions(project: Path, name: str) -> list[str]:
    return sorted(path.name for path in (project / "data" / name).iterdir() if not path.name.startswith("."))


def record_of(project: Path, name: str, version: str) -> Path:
    return project / "data" / name / version / "provenance.json"


def told(project: Path, verify: bool = False, **parameters) -> str:
    """What `status` prints."""
    params = ",".join(f"{name}={value}" for name, value in parameters.items())
    opened = open_project(None, params)
    memory = FileMemory(opened.data, recheck=verify)
    return "\n".join(lines_of(status_of(opened.pipeline(["__default__"]), opened.catalog, memory)))


def nodes_file(project: Path) -> Path:
    return next(project.glob("src/*/nodes.py"))


def test_what_is_fresh_is_left_out_and_said(toy_project, mlflow_store, listener):  # noqa: F811
    project = toy_project()
    first = run(project)
    listener.messages.clear()
    second = run(project, listener=listener)
    assert versions(project, "table.parquet") == versions(project, "count.json") == [first]
    assert listener.messages[:2] == [f"INFO: {name}: fresh, kept {first}" for name in ("make_table", "count_rows")]
    client = mlflow.MlflowClient(mlflow_store)
    (tracked,) = client.search_runs(["1"], f"tags.kedro_session_id = '{second}'")
    assert tracked.data.tags["kept.table"] == tracked.data.tags["kept.count"] == first
    assert tracked.info.status == "FINISHED"
    assert "output.table" not in tracked.data.tags


def test_a_run_that_keeps_has_the_parameters_of_one_that_makes(toy_project, mlflow_store):
    project, client = toy_project(), mlflow.MlflowClient(mlflow_store)

    def parameters(**given) -> dict:
        session = run(project, **given)
        (tracked,) = client.search_runs(["1"], f"tags.kedro_session_id = '{session}'")
        return tracked.data.params

    made = parameters()
    assert made["block.ppo.clip_range"] == "0.2" and "behaviour" in made
    assert parameters() == made
    assert len(versions(project, "table.parquet")) == 1
    # One node is kept and the other run, with a block that both have.
    assert parameters(behaviour="other") == {**made, "behaviour": "other"}
    assert (len(versions(project, "table.parquet")), len(versions(project, "count.json"))) == (1, 2)


def test_what_is_forced_or_named_is_run(toy_project):
    project = toy_project()
    first = run(project)
    forced = run(project, runtime=FORCED)
    assert versions(project, "table.parquet") == versions(project, "count.json") == [first, forced]
    named = run(project, options={"node_names": ["count_rows"]})
    assert versions(project, "table.parquet") == [first, forced]
    assert versions(project, "count.json") == [first, forced, named]


def test_a_parameter_makes_its_nodes_stale_and_status_tells_which(toy_project):
    project = toy_project()
    first = run(project)
    assert "2 fresh; 2 versions" in told(project)
    said = told(project, behaviour="other")
    assert f"table  fresh    {first}" in said
    assert 'parameter behaviour "work" → "other"' in said
    second = run(project, behaviour="other")
    assert versions(project, "table.parquet") == [first]
    assert versions(project, "count.json") == [first, second]


def test_a_node_that_makes_the_same_again_lets_the_next_be_kept(toy_project):
    project = toy_project()
    first = run(project)
    file = nodes_file(project)
    file.write_text(file.read_text() + "\nUNUSED = 1\n")
    said = told(project)
    assert f"code of {file.parent.name}/nodes.py changed" in said
    assert "input table is stale" in said
    file.write_text(file.read_text().replace("UNUSED = 1", "'''A remark.'''  # and another"))
    assert "2 fresh" in told(project)
    shutil.rmtree(project / "data" / "table.parquet")
    second = run(project)
    assert versions(project, "table.parquet") == [second]
    assert versions(project, "count.json") == [first], "the table came out as it was"


def test_inputs_that_changed_make_stale(toy_project):
    project = toy_project()
    run(project)
    other = run(project, options={"node_names": ["make_table"]})
    assert "2 fresh" in told(project), "the same content under a new version"
    table = project / "data" / "table.parquet" / other
    pretend_saved(table, "table.parquet", b"other content")
    assert "input table changed" in told(project)


def pretend_saved(version: Path, name: str, content: bytes) -> None:
    """Other content with a record that says that it was saved so."""
    from fisao_pipeline.artifacts.file_memory import sha256
    from fisao_pipeline.artifacts.provenance import seal
    from fisao_pipeline.datasets.contents import content_of

    (version / name).write_bytes(content)
    record = json.loads((version / "provenance.json").read_text())
    record["content"] = content_of(version / name, sha256)
    record["seal"] = seal(record)
    (version / "provenance.json").write_text(json.dumps(record))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"node": "make_table"', '"node": "another"'))


def age(path: Path) -> None:
    """A record as releases before fingerprints wrote it."""
    old = (
        "dataset",
        "version",
        "created",
        "kedro_session_id",
        "git_commit",
        "node",
        "inputs",
        "parameters",
        "libraries",
    )
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: record[key] for key in old}))


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("table.parquet", cut, "corrupt.*its content is not what was saved"),
        ("provenance.json", edit, "corrupt.*provenance.json was edited"),
        ("provenance.json", cut, "corrupt.*provenance.json cannot be read"),
        ("provenance.json", lambda path: path.write_text("[]"), "corrupt.*is no record of an artifact"),
        ("provenance.json", Path.unlink, "unknown.*nothing beside it says how it was made: it is kept, and made again"),
        ("provenance.json", age, r"unknown.*made by release \S+, before there were fingerprints"),
        ("table.parquet", lambda path: shutil.rmtree(path.parent), "missing"),
    ],
    ids=["artifact cut", "record edited", "record cut", "no record", "record gone", "older release", "version gone"],
)
def test_what_cannot_be_relied_on_is_told_and_made_again(toy_project, file, damage, said):
    project = toy_project()
    first = run(project)
    damage(project / "data" / "table.parquet" / first / file)
    output = told(project).replace("\n", " ")
    assert pytest.importorskip("re").search(f"table +{said}", output), output
    second = run(project)
    assert versions(project, "table.parquet")[-1] == second
    assert versions(project, "count.json") == [first]
    assert "2 fresh" in told(project)


def test_bytes_that_keep_size_and_time_are_found_when_all_is_read(toy_project):
    import os

    project = toy_project()
    first = run(project)
    assert "2 fresh" in told(project)
    table = project / "data" / "table.parquet" / first / "table.parquet"
    before, content = table.stat(), table.read_bytes()
    table.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "2 fresh" in told(project)
    assert "its content is not what was saved" in told(project, verify=True)


def test_older_versions_are_looked_at_too(toy_project):
    project = toy_project()
    first = run(project)
    run(project, runtime=FORCED)
    cut(project / "data" / "count.json" / first / "count.json")
    assert f"version {first} is corrupt: its content is not what was saved" in told(project)


def test_a_moved_data_folder_stays_fresh(toy_project):
    project = toy_project()
    version = run(project)
    for name in ("table.parquet", "count.json"):
        assert str(project) not in record_of(project, name, version).read_text()
    moved = shutil.copytree(project, project.with_name("elsewhere"))
    import os

    os.chdir(moved)
    for file in (moved / "data").rglob("*"):
        os.utime(file)  # as an archive might, that keeps no times
    assert "2 fresh" in told(moved)
    (moved / "data" / MEMORY_FILE).unlink()
    assert "2 fresh" in told(moved)
    run(moved)
    assert versions(moved, "table.parquet") == [version]


def test_files_that_parameters_name_count_with_their_content(toy_project):
    project = toy_project()
    (project / "words.txt").write_text("one")
    run(project, behaviour="words.txt")
    assert "2 fresh" in told(project, behaviour="words.txt")
    (project / "words.txt").write_text("two")
    assert "file of parameter behaviour changed" in told(project, behaviour="words.txt")


def test_a_later_version_is_refused_before_anything_runs(toy_project):
    project = toy_project()
    first = run(project)
    (project / "data" / "table.parquet" / first).rename(project / "data" / "table.parquet" / "2999-01-01T00.00.00.000Z")
    with pytest.raises(NotReadyError, match=r"'table' has a version 2999-.*would not become the latest"):
        run(project)
    assert len(versions(project, "table.parquet")) == 1


def test_what_goes_through_memory_is_told_by_what_is_behind_it(toy_project, capsys, monkeypatch):
    project = toy_project({"src/{package}/nodes.py": MEMORY_NODES, "conf/base/parameters.yml": "behaviour: work"})
    first = run(project)
    capsys.readouterr()
    asked, gather = [], EvidenceOf.of
    with monkeypatch.context() as watched:
        watched.setattr(EvidenceOf, "of", lambda self, node: asked.append(node.name) or gather(self, node))
        run(project)
    assert sorted(asked) == ["check", "count", "tabulate"], "nothing has changed in between, so once is enough"
    assert versions(project, "table.parquet") == versions(project, "count.json") == [first]
    assert "checked" in capsys.readouterr().out, "a node without outputs is run"
    assert 'parameter behaviour "work" → "other"' in told(project, behaviour="other")
    record = json.loads(record_of(project, "count.json", first).read_text())
    assert record["inputs"] == {}
    assert {"wiring of draw", "wiring of tabulate"} <= set(record["code"])
    shutil.rmtree(project / "data" / "count.json")
    second = run(project)
    assert versions(project, "count.json") == [second]
    assert versions(project, "table.parquet") == [first, second], "what hands on its size was run for it"


def test_a_run_that_failed_goes_on_with_what_is_left(toy_project):
    project = toy_project()
    with pytest.raises(ValueError, match="asked to fail"):
        run(project, behaviour="fail")
    second = run(project)
    assert versions(project, "count.json") == [second]
    assert len(versions(project, "table.parquet")) == 1


def test_every_artifact_has_its_record_from_the_start(toy_project, monkeypatch):
    """Not even a kill between two steps leaves a version without one: there is one step."""
    from fisao_pipeline.datasets import publish

    project, seen = toy_project(), []
    rename = publish.os.rename

    def look(source, target):
        seen.append(sorted(path.name for path in Path(source).iterdir()))
        return rename(source, target)

    monkeypatch.setattr(publish.os, "rename", look)
    run(project)
    assert seen == [["provenance.json", "table.parquet"], ["count.json", "provenance.json"]]


def test_nothing_is_open_to_others_beyond_the_umask(toy_project):
    import os

    project = toy_project()
    before = os.umask(0o077)
    try:
        run(project)
    finally:
        os.umask(before)
    found = [path for path in (project / "data").rglob("*")]
    assert found and not [path for path in found if path.stat().st_mode & 0o077]


def test_secrets_are_in_no_record(toy_project, mlflow_store):
    project = toy_project()
    version = run(
        project, behaviour="https://me:hunter2@example.org/x", block={"note": "x", "ppo": {"clip_range": 0.2}}
    )
    text = record_of(project, "count.json", version).read_text()
    assert "hunter2" not in text
    assert "https://***@example.org/x" in text
    assert "hunter2" not in str(only_run(mlflow_store).data.params)


def test_secrets_among_a_models_options_are_in_no_record(toy_project, mlflow_store):
    """Another secret is no other model; another word that stands for an image is."""
    project = toy_project()
    catalog = project / "conf" / "base" / "catalog.yml"
    options = "{processor: {token: hf_hunter2, image_token: <image>}, model: {x: [{secret_key: hunter3}]}}"
    catalog.write_text(
        catalog.read_text()
        + "late:\n  type: fisao_pipeline.datasets.AtomicDataset\n  dataset: json.JSONDataset\n"
        + "  filepath: data/late.json\n  versioned: true\n"
        + "backbone:\n  type: fisao_pipeline.datasets.ModelFolderDataset\n  filepath: data/model\n"
        + f"  options: {options}\n"
    )
    nodes = next(project.glob("src/*/nodes.py"))
    added = '        Node(lambda backbone: [1], "backbone", "late", name="last"),\n    ])'
    nodes.write_text(nodes.read_text().replace("    ])", f"    {added}", 1))
    (project / "data" / "model").mkdir(parents=True)
    (project / "data" / "model" / "config.json").write_text("{}")
    for file in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (project / "data" / "model" / file).write_text("{}")
    save_file({"a": torch.zeros(1)}, project / "data" / "model" / "model.safetensors")
    version = run(project)
    text = record_of(project, "late.json", version).read_text()
    assert "backbone" in text and "image_token" in text and "hunter" not in text
    assert "hunter" not in str(only_run(mlflow_store).to_dictionary())
    assert "hunter" not in CliRunner().invoke(cli, ["lineage", "late"]).output
    written = catalog.read_text()
    catalog.write_text(written.replace("hunter2", "swordfish"))
    run(project)
    assert versions(project, "late.json") == [version]
    catalog.write_text(written.replace("<image>", "<picture>"))
    run(project)
    assert len(versions(project, "late.json")) == 2


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        *dict.fromkeys(("hf_token", "use_auth_token", "api_key", "aws_secret_access_key", "secret_key"), True).items(),
        *dict.fromkeys(("private_key", "passphrase", "headers.Authorization", "client-secret"), True).items(),
        *dict.fromkeys(("max_new_tokens", "image_token", "pad_token", "tokenizer", "keys", "key"), False).items(),
    ],
)
def test_what_could_be_a_secret_is_known_by_its_name(name, is_secret):
    shown = "***" if is_secret else "hunter2"
    assert flatten_parameters({"params:a": {name: "hunter2"}}) == {f"a.{name}": shown}
    assert masked({"a": [{name.rpartition(".")[2]: "hunter2"}]}) == {"a": [{name.rpartition(".")[2]: shown}]}


def test_all_that_is_below_a_secret_name_is_masked():
    assert flatten_parameters({"params:a": {"credentials": {"user": "me"}, "token": None}}) == {
        "a.credentials": "***",
        "a.token": None,
    }


def test_other_runners_run_everything_and_say_so(toy_project, listener):  # noqa: F811
    from kedro.runner import ThreadRunner

    project = toy_project()
    first = run(project)
    listener.messages.clear()
    second = run(project, runner=ThreadRunner(), listener=listener)
    assert versions(project, "table.parquet") == [first, second]
    assert "runs every node" in listener.messages[0]


def test_a_session_gives_the_lock_back_when_a_run_was_refused(toy_project):
    project = toy_project()
    bootstrap_project(project)
    with settings.SESSION_CLASS.create(project_path=project, runtime_params={"blok": {}}) as session:
        with pytest.raises(NotReadyError):
            session.run()
    second = run(project)
    assert versions(project, "table.parquet") == [second]
