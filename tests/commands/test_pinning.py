"""Hub models: which commit is here, which is written into the catalog, and pickles made into safetensors."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Pipeline, node
from safetensors.torch import load_file
from tests.pocket_models import build_pocket_models
from tests.smoke_project import Smoke

from fisao_pipeline.commands.cli import cli
from fisao_pipeline.commands.pinning import with_revision
from fisao_pipeline.datasets import ModelFolderDataset
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.models.verifier import load_verifier
from fisao_pipeline.runs.preflight import missing_inputs, warn_of_unpinned

OLD, NEW = "0" * 40, "0123456789abcdef0123456789abcdef01234567"
CATALOG = """\
# A policy of somebody else's.
policy_backbone:
  type: fisao_pipeline.datasets.ModelFolderDataset
  hub_id: some/policy   # 7b
  dtype: bfloat16
  metadata: {kedro-viz: {layer: pretrained}}

# and its verifier
verifier:
  type: fisao_pipeline.datasets.ModelFolderDataset
  hub_id: some/verifier
  revision: main
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return build_pocket_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def put(cache: Path, hub_id: str, commit: str, model: Path | None = None, branch: str | None = None) -> Path:
    """A model in the cache, as `hf download` leaves it: a commit that was asked for by its id has no branch."""
    root = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    if model is not None:
        shutil.copytree(model, snapshot)
    else:
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (snapshot / "model.safetensors").touch()
    if branch:
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / branch).write_text(commit)
    return snapshot


# --- what is pinned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("revision", "follows"), [(None, "main"), ("v1", "v1"), (NEW[:12], NEW[:12]), (NEW, None)])
def test_only_a_full_commit_pins(revision, follows, caplog):
    entry = ModelFolderDataset(hub_id="some/policy", revision=revision)
    assert entry.unpinned == follows
    with caplog.at_level(logging.WARNING):
        warn_of_unpinned(["policy_backbone"], DataCatalog({"policy_backbone": entry}), "mine")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * (follows is not None)
    if follows is not None:
        assert f"'policy_backbone' is not pinned: 'some/policy' follows {follows}" in caplog.text
        assert "pin --env=mine" in caplog.text


def test_a_folder_needs_no_pin(models, caplog):
    catalog = DataCatalog({"verifier": ModelFolderDataset(filepath=str(models / "pocket_verifier"))})
    warn_of_unpinned(["verifier", "params:plan", "nothing"], catalog, None)
    assert caplog.text == ""


def test_another_commit_than_the_pinned_one_is_told_from_none(cache):
    put(cache, "some/policy", NEW, branch="main")
    with pytest.raises(DatasetError) as refusal:
        ModelFolderDataset(hub_id="some/policy", revision=OLD).load()
    assert f"(revision {OLD}) is neither a folder" in str(refusal.value)
    assert f"the cache holds {NEW}" in str(refusal.value)
    assert f"hf download some/policy --revision {OLD}" in str(refusal.value)
    with pytest.raises(DatasetError) as refusal:
        ModelFolderDataset(hub_id="some/other", revision=OLD).load()
    assert "the cache holds" not in str(refusal.value)
    assert ModelFolderDataset(hub_id="some/policy").resolve_load_version() == NEW
    assert ModelFolderDataset(hub_id="some/policy", revision="main").resolve_load_version() == NEW


# --- pin -------------------------------------------------------------------------------------------------------------


def test_a_revision_is_written_and_nothing_else_changes():
    changed = with_revision(with_revision(CATALOG, "policy_backbone", NEW), "verifier", OLD)
    assert yaml.safe_load(changed)["policy_backbone"]["revision"] == NEW
    assert yaml.safe_load(changed)["verifier"]["revision"] == OLD
    kept = [line for line in changed.splitlines() if "revision" not in line]
    assert kept == [line for line in CATALOG.splitlines() if "revision" not in line]
    assert with_revision(changed, "verifier", OLD) == changed


@pytest.mark.parametrize(
    "text",
    [
        "policy_backbone: {type: x, hub_id: a/b}\n",
        "verifier:\n  hub_id: a/b\n",
        "policy_backbone:\n  filepath: a\n",
        "policy_backbone:\n  hub_id: a/b\n  options:\n    revision: 3\n",
    ],
)
def test_an_entry_that_cannot_be_changed_for_sure_is_left_alone(text):
    with pytest.raises(ValueError, match=r"policy_backbone"):
        with_revision(text, "policy_backbone", NEW)


@pytest.fixture
def project(tmp_path, mlflow_template, monkeypatch):
    made = Smoke.make(tmp_path / "project", mlflow_template, put_models=lambda folder: None)
    (made.root / "conf" / "mine").mkdir()
    (made.root / "conf" / "mine" / "catalog.yml").write_text(CATALOG)
    monkeypatch.chdir(made.root)
    return made.root


def test_pin_writes_what_was_downloaded(project, cache):
    put(cache, "some/policy", NEW)
    put(cache, "some/verifier", OLD, branch="main")
    done = CliRunner().invoke(cli, ["pin", "--env=mine"])
    assert done.exit_code == 0, done.output
    assert f"policy_backbone: some/policy pinned to {NEW} in mine/catalog.yml" in done.output
    text = (project / "conf" / "mine" / "catalog.yml").read_text()
    assert {name: entry["revision"] for name, entry in yaml.safe_load(text).items()} == {
        "policy_backbone": NEW,
        "verifier": OLD,
    }
    again = CliRunner().invoke(cli, ["pin", "--env=mine"])
    assert again.output.count("already") == 2
    assert (project / "conf" / "mine" / "catalog.yml").read_text() == text


def test_pin_says_what_is_not_there(project, cache):
    done = CliRunner().invoke(cli, ["pin", "--env=mine"])
    assert done.exit_code == 1 and "hf download some/policy" in done.output
    put(cache, "some/policy", NEW)
    put(cache, "some/policy", OLD)
    done = CliRunner().invoke(cli, ["pin", "--env=mine"])
    assert done.exit_code == 1 and f"the cache holds {OLD}, {NEW}" in done.output, "two commits: no choice is made"
    assert (project / "conf" / "mine" / "catalog.yml").read_text() == CATALOG


# --- convert ---------------------------------------------------------------------------------------------------------


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.fixture
def pickled(models, cache):
    folder = put(cache, "some/clip", NEW, models / "pocket_verifier")
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    return folder


def test_pickled_weights_are_refused_by_name_and_converted_unchanged(models, pickled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = ModelFolderDataset(hub_id="some/clip", revision=NEW)
    pipeline = Pipeline([node(lambda verifier: None, "verifier", None, name="n")])
    (fault,) = missing_inputs({}, pipeline, DataCatalog({"verifier": entry}), {})
    command = f"convert some/clip --revision={NEW} --output=data/06_models/clip"
    assert "pickled weights only (pytorch_model.bin)" in fault and f"python -m fisao_pipeline {command}`" in fault
    done = CliRunner().invoke(cli, command.split())
    assert done.exit_code == 0, done.output
    output = tmp_path / "data" / "06_models" / "clip"
    before, after = (load_file(f / "model.safetensors") for f in (models / "pocket_verifier", output))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert f"some/clip, commit {NEW}" in (output / "README.md").read_text()
    assert not missing_inputs({}, pipeline, DataCatalog({"verifier": ModelFolderDataset(filepath=str(output))}), {})
    load_verifier(ModelSource(str(output), dtype="float32", device="cpu"))
    again = CliRunner().invoke(cli, command.split())
    assert again.exit_code == 1 and "never overwritten" in again.output


def test_a_download_into_the_project_is_converted_beside_it(models, pickled, tmp_path, monkeypatch):
    """`convert` refuses a folder that is there, so no message may name one."""
    monkeypatch.chdir(tmp_path)
    source = shutil.copytree(pickled, tmp_path / "data" / "06_models" / "clip")
    catalog = DataCatalog({"verifier": ModelFolderDataset(filepath=str(source))})
    pipeline = Pipeline([node(lambda verifier: None, "verifier", None, name="n")])
    for end in ("-safetensors", "-safetensors-2"):
        (fault,) = missing_inputs({}, pipeline, catalog, {})
        command = f"convert {source} --output=data/06_models/clip{end}"
        assert f"`python -m fisao_pipeline {command}` makes" in fault
        done = CliRunner().invoke(cli, command.split())
        assert done.exit_code == 0, done.output
        load_verifier(ModelSource(f"data/06_models/clip{end}", dtype="float32", device="cpu"))


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(pickled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"logit_scale": Harmful()}, pickled / "pytorch_model.bin")
    done = CliRunner().invoke(cli, ["convert", "some/clip", f"--revision={NEW}", "--output=out"])
    assert done.exit_code == 1 and "holds more than tensors" in done.output
    assert not (tmp_path / "harmed").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        ({"architectures": ["SomethingElse"]}, {}, "no model class of transformers"),
        ({"auto_map": {"AutoModel": "x.Y"}, "model_type": "unheard_of"}, {}, "code of its own"),
        ({}, {"text_projection.weight": None}, "lacks weights of a CLIPModel"),
    ],
)
def test_what_is_not_a_whole_model_of_transformers_is_not_converted(pickled, tmp_path, config, weights, message):
    file = pickled / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    state = torch.load(pickled / "pytorch_model.bin")
    torch.save({name: t for name, t in state.items() if name not in weights}, pickled / "pytorch_model.bin")
    done = CliRunner().invoke(cli, ["convert", "some/clip", f"--revision={NEW}", f"--output={tmp_path / 'out'}"])
    assert done.exit_code == 1 and message in done.output
    assert not (tmp_path / "out").exists()


def test_there_is_nothing_to_convert_in_safetensors(models, tmp_path):
    done = CliRunner().invoke(cli, ["convert", str(models / "pocket_verifier"), f"--output={tmp_path / 'out'}"])
    assert done.exit_code == 1 and "nothing to convert" in done.output
