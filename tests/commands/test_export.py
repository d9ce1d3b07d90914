"""Commands that write a trained adapter into a folder of its own."""

import json

import pytest
import torch
from click.testing import CliRunner
from kedro.io import DataCatalog, Version
from tests.pocket_models import PocketWorld, stir
from tests.smoke_project import Smoke

from fisao_pipeline.commands.cli import cli
from fisao_pipeline.commands.export import export_adapter
from fisao_pipeline.datasets import AdapterArtifact, AdapterFolderDataset, AtomicDataset
from fisao_pipeline.models.source import identity

CARD = "# Adapter\n\n## Before and after\n\nNot measured.\n\n## Settings\n"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, mlflow_template) -> Smoke:
    made = Smoke.make(tmp_path_factory.mktemp("smoke") / "project", mlflow_template)
    world = PocketWorld.make(made.root / "data" / "smoke" / "06_models")
    config, state = stir(world.policy()).adapter_state()
    folder = made.root / "data" / "smoke" / "06_models" / "policy_adapter"
    dataset = AdapterFolderDataset(filepath=folder.as_posix(), version=Version(None, "2026-01-01T00.00.00.000Z"))
    dataset.save(AdapterArtifact(config, state, CARD, identity(world.policy_source)))
    return made


@pytest.fixture(autouse=True)
def in_project(smoke, monkeypatch):
    monkeypatch.chdir(smoke.root)


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_merge_writes_a_full_model_and_never_over_another(tmp_path):
    output = tmp_path / "merged"
    done = CliRunner().invoke(cli, ["merge", "--env=smoke", f"--output={output}"])
    assert done.exit_code == 0, done.output
    assert "parameters outside the language tower are the base model's" in done.output
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files(output)
    assert files(tmp_path) == {"merged"}
    before = (output / "model.safetensors").stat().st_mtime_ns
    again = CliRunner().invoke(cli, ["merge", "--env=smoke", f"--output={output}"])
    assert again.exit_code == 1 and "exists and is never overwritten" in again.output
    assert (output / "model.safetensors").stat().st_mtime_ns == before


def test_merge_refuses_an_adapter_of_another_model_and_leaves_nothing(smoke, tmp_path):
    base = next((smoke.root / "data" / "smoke" / "06_models" / "policy_adapter").rglob("base_model.json"))
    whole = base.read_text()
    base.write_text(json.dumps({"identity": "sha256:another"}))
    try:
        done = CliRunner().invoke(cli, ["merge", "--env=smoke", f"--output={tmp_path / 'merged'}"])
    finally:
        base.write_text(whole)
    assert done.exit_code == 1 and "Nothing was written: the adapter" in done.output
    assert list(tmp_path.iterdir()) == []


def test_export_copies_the_adapter(smoke, tmp_path):
    output = tmp_path / "adapter"
    done = CliRunner().invoke(cli, ["export", "--env=smoke", f"--output={output}"])
    assert done.exit_code == 0, done.output
    assert "without evaluation" in done.output
    assert files(output) == {"adapter_config.json", "adapter_model.safetensors", "base_model.json", "README.md"}
    assert (output / "README.md").read_text() == CARD
    again = CliRunner().invoke(cli, ["export", "--env=smoke", f"--output={output}"])
    assert again.exit_code == 1 and "never overwritten" in again.output


@pytest.mark.parametrize("reported", ["v2", "v1", None], ids=["report", "report of another", "no report"])
@pytest.mark.parametrize(("evaluated", "measured"), [("v1", True), ("v0", False)])
def test_the_evaluation_comes_into_the_card_if_it_is_of_this_adapter(
    tmp_path, monkeypatch, evaluated, measured, reported
):
    adapter = AdapterFolderDataset(filepath=str(tmp_path / "policy_adapter"), version=Version(None, "v1"))
    adapter.save(AdapterArtifact({"r": 2}, {"a": torch.ones(2, 2)}, CARD))
    entries = {
        "policy_adapter": AdapterFolderDataset(filepath=str(tmp_path / "policy_adapter"), version=Version(None, None))
    }
    for name, inputs in (("comparison", {"predictions": "v2"}), ("predictions", {"policy_adapter": evaluated})):
        where = {"filepath": str(tmp_path / f"{name}.json"), "dataset": "json.JSONDataset"}
        saved = AtomicDataset(**where, version=Version(None, "v2"))
        saved.save({})
        saved.provenance_path("v2").write_text(json.dumps({"inputs": inputs}))
        entries[name] = AtomicDataset(**where, version=Version(None, None))
    if reported is not None:
        where = {"filepath": str(tmp_path / "report.html"), "dataset": "text.TextDataset"}
        saved = AtomicDataset(**where, version=Version(None, "v3"))
        saved.save("<p>A report.</p>")
        saved.provenance_path("v3").write_text(json.dumps({"inputs": {"comparison": reported}}))
        entries["report"] = AtomicDataset(**where, version=Version(None, None))
    monkeypatch.setattr("fisao_pipeline.benchmarks.comparison.format_table", lambda _comparison: "| CHAIR |")
    said = export_adapter(DataCatalog(entries), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("| CHAIR |" in card) == measured == ("with the evaluation's table" in said)
    assert ("Not measured." in card) != measured
    linked = measured and reported == "v2"
    assert ("[report.html](report.html)" in card) == linked == (" and report" in said)
    assert (tmp_path / "out" / "report.html").exists() == linked
    published = tmp_path / "policy_adapter" / "v1" / "policy_adapter" / "README.md"
    assert published.read_text() == CARD, "what was published stays as it was"
