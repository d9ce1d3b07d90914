"""The tree of how an artifact came about, on records made for the test and on those of real runs."""

import hashlib
import json
import shutil

import pandas as pd
import pytest
from click.testing import CliRunner
from kedro.io import AbstractDataset, DataCatalog, Version
from tests.runs.test_lineage import FORCED, run

from fisao_pipeline.artifacts.ancestry import ancestry
from fisao_pipeline.artifacts.file_memory import sha256
from fisao_pipeline.artifacts.provenance import seal
from fisao_pipeline.artifacts.tree import MANIFEST, lines_of, tree_of
from fisao_pipeline.commands.cli import cli
from fisao_pipeline.datasets import AtomicDataset
from fisao_pipeline.datasets.contents import content_of

DAY = "2026-01-01T00.00.00.000Z"
COMMIT, RUN = "c" * 40, "a" * 32
PICTURES = [{"file_name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in ("a.png", "b.png")]


@pytest.fixture
def catalog(tmp_path):
    kinds = {
        MANIFEST: "pandas.ParquetDataset",
        "prompts": "json.JSONDataset",
        "responses": "json.JSONDataset",
        "adapter": "json.JSONDataset",
    }
    return DataCatalog(
        {
            name: AtomicDataset(
                filepath=str(tmp_path / (f"{name}.parquet" if name == MANIFEST else f"{name}.json")),
                dataset=kind,
                version=Version(None, None),
            )
            for name, kind in kinds.items()
        }
    )


def put(catalog, name, inputs=None, contents=None, data=None, **record):
    """Save a version of 1 January, and its record."""
    dataset = catalog.get(name)
    place = dataset.version_path(DAY)
    place.parent.mkdir(parents=True)
    if data is None:
        place.write_bytes(b"[" + b" " * 998 + b"]")
    else:
        data.to_parquet(place)
    record = {
        "dataset": name,
        "version": DAY,
        "created": "2026-01-01T00:00:00+00:00",
        "kedro_session_id": DAY,
        "mlflow_run_id": RUN,
        "git_commit": COMMIT,
        "git_dirty": False,
        "content": content_of(place, sha256),
        "fingerprint": "sha256:0",
        "node": f"make_{name}",
        "inputs": inputs or {},
        "input_contents": contents or {},
    } | record
    place.with_name("provenance.json").write_text(json.dumps(record | {"seal": seal(record)}))


@pytest.fixture
def diamond(catalog):
    """An adapter of prompts and responses; responses of prompts, and a model; prompts of the manifest."""
    given = {"image_folder": None, "raw_annotations": None}
    hashes = {"image_folder": "sha256:f01d", "raw_annotations": "sha256:a220"}
    put(catalog, MANIFEST, given, hashes, data=pd.DataFrame(PICTURES))
    put(catalog, "prompts", {MANIFEST: DAY}, git_dirty=True)
    put(catalog, "responses", {"prompts": DAY, "backbone": "sha256:3f"}, {"backbone": 'sha256:3f ["float32"]'})
    put(catalog, "adapter", {"prompts": DAY, "responses": DAY}, mlflow_run_id=None, git_commit=None)
    catalog["backbone"] = []
    return catalog


def lines(catalog, **options):
    return list(lines_of(tree_of(catalog, "adapter", DAY, **options)))


def test_the_tree_goes_down_to_what_was_given(diamond):
    size = diamond.get(MANIFEST).version_path(DAY).stat().st_size / 1000
    by = f"commit cccccccccc, MLflow run {RUN}"
    assert lines(diamond) == [
        f"adapter@{DAY}  make_adapter, outside a repository, no MLflow run, 1.0 kB",
        f"├── prompts@{DAY}  make_prompts, commit cccccccccc, files changed, MLflow run {RUN}, 1.0 kB",
        f"│   └── {MANIFEST}@{DAY}  make_{MANIFEST}, {by}, 2 rows, {size:.1f} kB",
        "│       ├── 2 images, each by its hash: --images lists them",
        "│       ├── image_folder  sha256:f01d",
        "│       └── raw_annotations  sha256:a220",
        f"└── responses@{DAY}  make_responses, {by}, 1.0 kB",
        '    ├── backbone@sha256:3f  ["float32"]',
        f"    └── prompts@{DAY}  see above",
    ]


def test_every_image_if_asked(diamond):
    assert lines(diamond, images=True)[3:6] == [
        "│       ├── 2 images",
        *(f"│       │       sha256:{each['sha256']}  {each['file_name']}" for each in PICTURES),
    ]
    tree = tree_of(diamond, MANIFEST, DAY, images=True)
    assert tree["images"] == PICTURES and tree["rows"] == 2


def test_a_shared_ancestor_is_walked_once(diamond):
    found = ancestry(diamond, [("adapter", DAY), ("prompts", DAY)])
    assert sorted(name for name, _ in found) == ["adapter", "backbone", MANIFEST, "prompts", "responses"]
    responses = tree_of(diamond, "adapter", DAY)["inputs"][1]
    assert responses["inputs"][1] == {"artifact": "prompts", "version": DAY, "repeated": True}


def test_what_is_gone_is_said(diamond):
    shutil.rmtree(diamond.get("prompts").version_path(DAY).parent)
    said = lines(diamond)
    assert said[1] == f"├── prompts@{DAY}  is gone: it was pruned or deleted"
    assert said[-1] == f"    └── prompts@{DAY}  is gone: it was pruned or deleted"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_text(path.read_text().replace("make_prompts", "make_others")), "was edited"),
        (lambda path: path.write_text("{"), "cannot be read"),
        (lambda path: path.unlink(), "nothing beside it says how it was made"),
    ],
)
def test_a_record_that_nobody_can_rely_on_ends_the_tree(diamond, damage, said):
    damage(diamond.get("prompts").provenance_path(DAY))
    (line,) = [line for line in lines(diamond) if line.startswith("├── prompts")]
    assert said in line
    assert MANIFEST not in "\n".join(lines(diamond))


def test_what_was_edited_before_it_was_read_is_said(diamond):
    """Of the reader that read it so, and not of the one that read what was saved."""
    saved = content_of(diamond.get("prompts").version_path(DAY), sha256)
    responses = diamond.get("responses").version_path(DAY).parent
    shutil.rmtree(responses)
    model = {"backbone": 'sha256:3f ["float32"]'}
    put(diamond, "responses", {"prompts": DAY, "backbone": "sha256:3f"}, {"prompts": "sha256:0dd", **model})
    shutil.rmtree(diamond.get("adapter").version_path(DAY).parent)
    put(diamond, "adapter", {"prompts": DAY, "responses": DAY}, {"prompts": saved})
    first, again = (line for line in lines(diamond) if "prompts" in line)
    assert first.endswith("1.0 kB")
    assert again.endswith(f"prompts@{DAY}  see above, was read with other content than its record tells")


def test_an_entry_that_the_catalog_lost_is_said(diamond):
    rest = DataCatalog({name: diamond.get(name) for name in ("adapter", "responses")})
    said = [line for line in lines(rest) if "prompts" in line]
    assert all("the catalog has no such entry any more" in line for line in said) and len(said) == 2


class Model(AbstractDataset):
    """Keeps one version and its record, as a folder of a model does."""

    def __init__(self, place):
        self._place = place

    def load(self):
        return None

    def save(self, data):
        raise NotImplementedError

    def _describe(self):
        return {}

    def provenance_path(self, _version):
        return self._place


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('sha256:3f ["float32"]', "backbone@sha256:3f  train, commit cccccccccc, MLflow run " + RUN),
        ('sha256:44 ["float32"]', 'backbone@sha256:3f  ["float32"], was replaced: there is sha256:44 now'),
    ],
)
def test_a_model_has_the_record_of_what_is_there_now(diamond, tmp_path, content, said):
    place = tmp_path / "model.json"
    record = {"version": DAY, "content": content, "node": "train", "inputs": {}, "git_commit": COMMIT}
    record |= {"git_dirty": False, "mlflow_run_id": RUN}
    place.write_text(json.dumps(record | {"seal": seal(record)}))
    diamond["backbone"] = Model(place)
    (line,) = [line for line in lines(diamond) if "backbone" in line]
    assert line.endswith(said)


def test_a_manifest_that_is_no_table_is_said(diamond):
    diamond.get(MANIFEST).version_path(DAY).write_text("cut")
    (line,) = [line for line in lines(diamond) if MANIFEST in line]
    assert "it cannot be read" in line


def lineage(*words):
    return CliRunner().invoke(cli, ["lineage", *words])


def test_on_the_command_line(toy_project):
    project = toy_project()
    first, second = run(project), run(project, runtime=FORCED)
    done = lineage("count", "--json=tree.json")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0].startswith(f"count@{second}  count_rows, outside a repository, MLflow run ")
    assert done.output.splitlines()[1].startswith(f"└── table@{second}  make_table, ")
    assert ", 3 rows, " in done.output
    tree = json.loads((project / "tree.json").read_text())
    assert (tree["artifact"], tree["inputs"][0]["artifact"], tree["inputs"][0]["rows"]) == ("count", "table", 3)
    assert f"table@{first}" in lineage(f"count@{first}").output
    refused = lineage("count", "--json=nowhere/tree.json")
    assert refused.exit_code == 1 and "cannot be written" in refused.output


def test_names_that_do_not_exist(toy_project):
    project = toy_project()
    assert "There is no version of table yet." in lineage("table").output
    version = run(project)
    for asked, said in (
        ("cuont", "There is no artifact 'cuont'; did you mean 'count'? (made so far: count, table)."),
        (f"count@{version[:-2]}", f"did you mean '{version}'? (of {version})."),
    ):
        result = lineage(asked)
        assert result.exit_code == 1
        assert said in result.output
