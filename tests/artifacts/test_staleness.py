"""The stages' artifacts, as if made, and which of them become stale when a parameter or the code changes."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kedro.pipeline import Pipeline
from PIL import Image
from pydantic import BaseModel
from tests.smoke_project import copy_configuration

from fisao_pipeline.artifacts import node_code
from fisao_pipeline.artifacts.evidence import EvidenceOf, is_kept
from fisao_pipeline.artifacts.file_memory import FileMemory, sha256
from fisao_pipeline.artifacts.freshness import State
from fisao_pipeline.artifacts.provenance import RunContext, build_record, write_json
from fisao_pipeline.commands.project import Project, open_project
from fisao_pipeline.commands.status import status_of
from fisao_pipeline.pipeline_registry import register_pipelines

VERSION = "2026-01-01T00.00.00.000Z"
PIPELINE = register_pipelines()["__default__"]
BLOCKS = sorted(name for name in PIPELINE.inputs() if name.startswith("params:"))
TRAINED = {"policy_adapter", "training_history", "training_rollouts"}
ANNOTATED = {"object_mentions", "verifier_baseline", "token_rewards", "response_scores"}
SAMPLED = {"responses", "rejected_prompts"}
# Its nodes are one module, so each of them has the code of all.
EVALUATED = {name for node in PIPELINE.only_nodes_with_tags("benchmark_evaluation").nodes for name in node.outputs}
ASKING = SAMPLED | TRAINED | EVALUATED


def put_inputs(data: Path) -> None:
    """One picture and models that have nothing but a configuration: nothing here is loaded."""
    scenes = data / "01_raw" / "pocket_scenes"
    (scenes / "images").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(scenes / "images" / "one.png")
    (scenes / "annotations.json").write_text("{}")
    (scenes / "prompts.jsonl").write_text("")
    for name in ("pocket_vlm", "pocket_verifier"):
        (data / "06_models" / name).mkdir(parents=True)
        (data / "06_models" / name / "config.json").write_text("{}")


def pretend_made(pipeline: Pipeline, project: Project, memory: FileMemory) -> None:
    """All that a pipeline keeps, with the records that a run would have written beside it."""
    gather = EvidenceOf(pipeline, project.catalog, memory)
    for node in pipeline.nodes:
        for name in node.outputs:
            if not is_kept(name, project.catalog):
                continue
            dataset = project.catalog.get(name)
            place = dataset.folder / VERSION / dataset.folder.name
            place.parent.mkdir(parents=True)
            place.write_text(f"what {name} holds")
            content = dataset.content(sha256, place)
            record = build_record(RunContext(VERSION), gather.of(node), dataset=name, version=VERSION, content=content)
            write_json(dataset.provenance_path(VERSION), record)
            dataset.release()
            gather.forget(name)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Iterator[Project]:
    root, before = tmp_path_factory.mktemp("stages") / "project", Path.cwd()
    copy_configuration(root)
    put_inputs(root / "data" / "smoke")
    os.chdir(root)
    opened = open_project("smoke")
    pretend_made(PIPELINE, opened, FileMemory(opened.data))
    yield opened
    os.chdir(before)


def reasons(project: Project) -> dict[str, str]:
    """Of all that is not fresh."""
    statuses = status_of(PIPELINE, project.catalog, FileMemory(project.data))
    assert {status.verdict.state for status in statuses} <= {State.FRESH, State.STALE}
    return {status.name: "; ".join(status.verdict.reasons) for status in statuses if status.verdict.reasons}


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    else:
        yield path


def changed(value: Any, path: tuple[str, ...]) -> Any:
    if not path:
        return ["another", value]
    return {**value, path[0]: changed(value[path[0]], path[1:])}


def kept_from(nodes: set[str]) -> set[str]:
    """What the nodes and all after them make and keep."""
    return {name for node in PIPELINE.from_nodes(*nodes).nodes for name in node.outputs}


def test_all_is_fresh_at_first(project):
    assert reasons(project) == {}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_parameter_makes_stale_what_uses_it_and_what_follows_and_nothing_else(project, block):
    model = project.catalog.load(block)
    assert isinstance(model, BaseModel)
    values = model.model_dump(mode="json")
    users = {node.name for node in PIPELINE.nodes if block in node.inputs}
    memory_only = {name for name in PIPELINE.all_outputs() if not is_kept(name, project.catalog)}
    expected = kept_from(users) - memory_only
    direct = {name for node in PIPELINE.nodes if node.name in users for name in node.outputs} - memory_only
    count = 0
    try:
        for path in leaves(values):
            project.catalog[block] = changed(values, path)
            stale = reasons(project)
            assert set(stale) == expected, path
            name = ".".join([block.removeprefix("params:"), *path])
            assert all(f"parameter {name} " in stale[artifact] for artifact in direct), name
            count += 1
    finally:
        project.catalog[block] = model
    assert count >= len(type(model).model_fields)
    assert reasons(project) == {}


@pytest.fixture
def source(project, tmp_path, monkeypatch) -> Path:
    """A copy of the package whose code is the one that counts, all fresh."""
    copy = tmp_path / "fisao_pipeline"
    shutil.copytree(Path(node_code.__file__).parents[1], copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(node_code, "_roots", lambda packages: {"fisao_pipeline": copy})
    return copy


UNTOUCHED: set[str] = set()
FUTURE, MORE_CODE = "from __future__ import annotations", "from __future__ import annotations\nX = 1"
CODE_EDITS = [
    ("models/policy.py", "from __future__", "# A remark.\nfrom __future__", UNTOUCHED),
    ("training/ppo.py", '"""', '"""Another docstring. ', UNTOUCHED),
    ("planning/plan.py", FUTURE, MORE_CODE, UNTOUCHED),
    ("runs/lineage.py", FUTURE, MORE_CODE, UNTOUCHED),
    ("artifacts/provenance.py", FUTURE, MORE_CODE, UNTOUCHED),
    ("__init__.py", "__version__ = ", "__version__ = 'another' + ", UNTOUCHED),
    ("training/dpo.py", FUTURE, MORE_CODE, TRAINED),
    ("params/policy_training.py", FUTURE, MORE_CODE, TRAINED),
    ("params/plan.py", FUTURE, MORE_CODE, UNTOUCHED),
    ("method/losses.py", FUTURE, MORE_CODE, TRAINED),
    ("models/policy.py", FUTURE, MORE_CODE, ASKING),
    ("benchmarks/chair.py", FUTURE, MORE_CODE, EVALUATED),
]


@pytest.mark.parametrize(("file", "old", "new", "expected"), CODE_EDITS)
def test_an_edit_of_the_code_makes_stale_what_runs_it(project, source, file, old, new, expected):
    text = (source / file).read_text()
    assert old in text
    (source / file).write_text(text.replace(old, new, 1))
    stale = reasons(project)
    touched = {name for name, reason in stale.items() if f"code of {file}" in reason}
    assert touched == expected
    makers = {node.name for node in PIPELINE.nodes if expected & set(node.outputs)}
    assert set(stale) == (kept_from(makers) if expected else set())


def test_a_word_list_counts_where_it_is_read(project, source):
    file = source / "method" / "vocabulary" / "common_objects.txt"
    file.write_text(file.read_text() + "\nanother thing\n")
    touched = {name for name, reason in reasons(project).items() if "common_objects.txt" in reason}
    assert ANNOTATED | TRAINED <= touched
    assert not touched & (SAMPLED | {"image_manifest", "prompts"})


@pytest.mark.parametrize(
    ("file", "said", "artifact"),
    [
        ("01_raw/pocket_scenes/annotations.json", "input raw_annotations changed", "image_manifest"),
        ("01_raw/pocket_scenes/images/two.png", "input image_folder changed", "responses"),
        ("06_models/pocket_verifier/config.json", "input verifier changed", "token_rewards"),
    ],
    ids=["annotations", "pictures", "verifier"],
)
def test_what_no_node_makes_counts_with_its_content(project, tmp_path, monkeypatch, file, said, artifact):
    root = tmp_path / "project"
    shutil.copytree(project.data.parents[1], root)
    monkeypatch.chdir(root)
    moved = open_project("smoke")
    assert reasons(moved) == {}, "a copy elsewhere is as fresh"
    (moved.data / file).write_text("{ }")
    assert said in reasons(moved)[artifact]


def test_a_record_tells_all_that_it_should(project):
    record = json.loads((project.data / "06_models" / "policy_adapter" / VERSION / "provenance.json").read_text())
    assert record["node"] == "train_policy"
    assert set(record["inputs"]) == set(record["input_contents"]) >= {"responses", "verifier", "image_folder"}
    assert record["inputs"]["responses"] == VERSION
    assert all(record["input_contents"].values())
    assert record["parameters"]["policy_training.seed"] == 0
    assert record["libraries"].keys() >= {"fisao-pipeline", "torch", "transformers", "peft"}
    assert record["peak_memory_bytes"]["process"] > 2**20
    assert record["code"]["fisao_pipeline/method/losses.py"]
    assert str(project.data) not in json.dumps(record)
