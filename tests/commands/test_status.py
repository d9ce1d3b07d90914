"""How fast a status is, and how it reads."""

import gc
import json
import time
from functools import partial

import pytest
from kedro.io import DataCatalog, Version
from kedro.pipeline import Node, Pipeline

from fisao_pipeline.artifacts.evidence import EvidenceOf
from fisao_pipeline.artifacts.file_memory import FileMemory, sha256
from fisao_pipeline.artifacts.freshness import State, Verdict
from fisao_pipeline.artifacts.provenance import RunContext, build_record, seal
from fisao_pipeline.artifacts.sizes import said_bytes
from fisao_pipeline.commands.status import ArtifactStatus, lines_of, status_of, values_of
from fisao_pipeline.datasets import AtomicDataset, KeyedFolderDataset
from fisao_pipeline.datasets.contents import content_of
from fisao_pipeline.runs.start_up import collect_seldom

ARTIFACTS, VERSIONS = 20, 500


def make():
    return {}


@pytest.fixture
def many(tmp_path):
    """10,000 versions, each with a record of usual size."""
    names = [f"artifact_{number:02d}" for number in range(ARTIFACTS)]
    catalog = DataCatalog(
        {
            name: AtomicDataset(filepath=str(tmp_path / name), dataset="json.JSONDataset", version=Version(None, None))
            for name in names
        }
    )
    pipeline = Pipeline([Node(make, None, name, name=f"make_{name}") for name in names])
    gather = EvidenceOf(pipeline, catalog, FileMemory(tmp_path))
    for node in pipeline.nodes:
        (name,) = node.outputs
        base = build_record(RunContext("x"), gather.of(node), dataset=name, version="x", content="")
        base["code"] = {f"fisao_pipeline/module_{number}.py": "0" * 16 for number in range(60)} | base["code"]
        for number in range(VERSIONS):
            place = tmp_path / name / f"2026-01-01T00.00.00.{number:03d}Z" / name
            place.parent.mkdir(parents=True)
            place.write_text(json.dumps(number))
            record = {**base, "content": content_of(place, sha256)}
            place.with_name("provenance.json").write_text(json.dumps({**record, "seal": seal(record)}))
    return pipeline, catalog, tmp_path


@pytest.fixture
def seldom_collected():
    """The collector as the command has it."""
    usual = gc.get_threshold()
    collect_seldom()
    yield
    gc.set_threshold(*usual)


def processor_seconds(work):
    start = time.process_time()
    return work(), time.process_time() - start


def test_ten_thousand_versions_are_looked_at_in_two_seconds(many, seldom_collected):
    pipeline, catalog, data = many
    look = partial(status_of, pipeline, catalog)
    _, reading = processor_seconds(lambda: [json.loads(path.read_bytes()) for path in data.rglob("provenance.json")])
    for most in (5 * reading, 2 * reading):  # the first time, and again: usually 3.5 and 0.9
        statuses, seconds = processor_seconds(lambda: look(FileMemory(data)))
        assert [status.verdict.state for status in statuses] == [State.FRESH] * ARTIFACTS
        assert all(len(status.bytes_by_version) == VERSIONS and not status.corrupt for status in statuses)
        assert seconds < most, f"to read the records alone takes {reading:.2f} s"


def test_the_lines():
    statuses = [
        ArtifactStatus("table", Verdict(State.FRESH, (), "b"), {"a": 1000, "b": 500}, {"a": "cut"}),
        ArtifactStatus(
            "adapter", Verdict(State.STALE, ("parameter x 1 → 2", "input table changed"), "b"), {"b": 12}, {}
        ),
        ArtifactStatus("page", Verdict(State.MISSING), {}, {}),
    ]
    assert list(lines_of(statuses)) == [
        "table    fresh    b                         2 versions, 1.5 kB",
        "    version a is corrupt: cut",
        "adapter  stale    b                         1 version, 12 bytes",
        "    parameter x 1 → 2",
        "    input table changed",
        "page     missing",
        "1 fresh, 1 stale, 1 missing; 3 versions, 1.5 kB",
    ]


def test_values_by_key_have_a_line_if_there_are_any(tmp_path):
    def folder(name, **options):
        return KeyedFolderDataset(filepath=str(tmp_path / name), dataset="json.JSONDataset", suffix=".json", **options)

    catalog = DataCatalog(
        {
            "checkpoints": folder("checkpoints", of_unfinished_runs=True),
            "texts": folder("texts"),
            "rows": folder("rows"),
            "of_another_pipeline": folder("other"),
        }
    )
    for name, keys in (("checkpoints", "ab"), ("texts", "a"), ("of_another_pipeline", "a")):
        for key in keys:
            catalog.load(name).put(key, "x" * 600)
    read = ["texts", "rows", "checkpoints"]
    pipeline = Pipeline([Node(lambda *_given: None, read, "out", name="work")])
    assert list(lines_of([], values_of(pipeline, catalog)))[:-1] == [
        "checkpoints: 2 values of unfinished runs, 1.2 kB",
        "texts: 1 value, 602 bytes",
    ]


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (5e15, "5000.0 TB")]
)
def test_bytes(count, said):
    assert said_bytes(count) == said
