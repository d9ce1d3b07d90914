"""Model folders: missing ones are named with the way to get them, replaced ones are never half there."""

import json
from pathlib import Path

import pytest
import torch
from kedro.io import DataCatalog, DatasetError
from safetensors.torch import save_file

from fisao_pipeline.datasets import ModelFolderDataset
from fisao_pipeline.models.shape import BYTES
from fisao_pipeline.models.source import DTYPES, ModelSource, find_model, fingerprint, looks_local


def writer(value=1.0, config='{"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}'):
    def write(folder: Path) -> None:
        (folder / "config.json").write_text(config)
        save_file({"w": torch.full((3, 4), value), "b": torch.zeros(5)}, folder / "model.safetensors")

    return write


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pocket_vlm"


def test_round_trip(folder):
    dataset = ModelFolderDataset(filepath=str(folder), dtype="float32", device="cpu", options={"image_size": 96})
    assert not dataset.exists()
    dataset.save(writer())
    assert dataset.exists()
    assert dataset.load() == ModelSource(str(folder), None, "float32", "cpu", False, {"image_size": 96})


def test_objects_with_save_pretrained_are_saved(folder):
    from transformers import CLIPTextConfig, CLIPTextModel

    model = CLIPTextModel(
        CLIPTextConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    dataset = ModelFolderDataset(filepath=str(folder))
    dataset.save(model)
    again = CLIPTextModel.from_pretrained(dataset.load().path_or_id)
    assert sum(p.numel() for p in again.parameters()) == json.loads("".join(dataset.glimpse()))["parameters"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"filepath": "data/06_models/pocket_vlm"}, "kedro run --pipelines=pocket_world"),
        ({"filepath": "data/06_models/llava-1.5-7b-hf"}, r"hf download .* --local-dir data/06_models/llava-1\.5-7b-hf"),
        ({"hub_id": "no-such-organisation/no-such-model"}, "hf download no-such-organisation/no-such-model"),
        ({"hub_id": "no-such-organisation/no-such-model", "revision": "abc"}, "--revision abc"),
    ],
)
def test_a_missing_model_is_named_with_the_way_to_get_it(tmp_path, monkeypatch, options, expected):
    monkeypatch.chdir(tmp_path)
    dataset = ModelFolderDataset(**options)
    with pytest.raises(DatasetError, match=expected):
        dataset.load()
    assert not dataset.exists()
    assert dataset.resolve_load_version is not None


def test_a_hub_id_is_accepted_when_it_may_be_downloaded():
    dataset = ModelFolderDataset(hub_id="no-such-organisation/no-such-model", revision="abc", allow_download=True)
    assert dataset.load().revision == "abc"
    assert dataset.resolve_load_version() == "abc"


def test_a_hub_id_is_found_in_the_local_cache(tmp_path, monkeypatch):
    repository = tmp_path / "models--some--model"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    dataset = ModelFolderDataset(hub_id="some/model")
    with pytest.raises(DatasetError, match="neither a folder nor"):
        dataset.load()
    (snapshot / "model.safetensors").touch()
    assert dataset.load() == ModelSource("some/model")
    assert dataset.resolve_load_version() == "0123abcd"


@pytest.mark.parametrize("dtype", ["bf16", "torch.bfloat16", None])
def test_an_unknown_dtype_is_refused_when_the_entry_is_read(folder, dtype):
    with pytest.raises(DatasetError, match=rf"'dtype' {dtype!r} is not known: there are auto, float32, bfloat16, fl"):
        ModelFolderDataset(filepath=str(folder), dtype=dtype)


def test_every_dtype_can_be_loaded_and_is_known_to_the_plan():
    assert DTYPES == ("auto", *BYTES)
    assert all(isinstance(getattr(torch, dtype), torch.dtype) for dtype in BYTES)


@pytest.mark.parametrize("path", ["/models/x", "./x", "../x", "~/x", "data/x", "a/b/c", r"C:\models\x"])
def test_names_that_mean_a_path(path):
    assert looks_local(path)


@pytest.mark.parametrize("name", ["gpt2", "llava-hf/llava-1.5-7b-hf"])
def test_names_that_mean_the_hub(name):
    assert not looks_local(name)


def test_a_folder_without_a_model_is_refused(folder):
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        find_model(str(folder))


def test_a_failing_save_leaves_the_model_before(folder):
    dataset = ModelFolderDataset(filepath=str(folder))
    dataset.save(writer(1.0))
    before = dataset.resolve_load_version()

    def fail(staged: Path) -> None:
        writer(2.0)(staged)
        raise RuntimeError("out of memory")

    with pytest.raises(DatasetError, match="out of memory"):
        dataset.save(fail)
    with pytest.raises(DatasetError, match="not a saved model"):
        dataset.save(lambda staged: None)
    assert dataset.resolve_load_version() == before
    assert [path.name for path in folder.parent.iterdir()] == ["pocket_vlm"]


def test_saving_replaces_the_whole_folder(folder):
    dataset = ModelFolderDataset(filepath=str(folder))
    dataset.save(writer(1.0))
    (folder / "old_file.txt").touch()
    before = dataset.resolve_load_version()
    dataset.save(writer(2.0))
    assert not (folder / "old_file.txt").exists()
    assert dataset.resolve_load_version() != before


def test_a_swap_killed_between_its_renames_is_undone(folder):
    dataset = ModelFolderDataset(filepath=str(folder))
    dataset.save(writer(1.0))
    version = dataset.resolve_load_version()
    staging = folder.parent / ".staging-pocket_vlm-0123456789ab"
    staging.mkdir()
    folder.rename(staging / "previous")
    assert dataset.resolve_load_version() == version


def test_the_fingerprint_is_of_content_alone(folder, tmp_path):
    ModelFolderDataset(filepath=str(folder)).save(writer())
    other = tmp_path / "elsewhere"
    ModelFolderDataset(filepath=str(other)).save(writer())
    (other / "provenance.json").write_text("{}")
    assert fingerprint(folder) == fingerprint(other)
    assert fingerprint(folder).startswith("sha256:")
    (other / "config.json").write_text("{}")
    assert fingerprint(folder) != fingerprint(other)


def test_a_glimpse_tells_architecture_and_size(folder):
    dataset = ModelFolderDataset(filepath=str(folder))
    dataset.save(writer())
    about = json.loads("".join(dataset.glimpse()))
    assert about["architecture"] == "LlavaForConditionalGeneration"
    assert about["parameters"] == 17


def test_a_model_has_one_place():
    with pytest.raises(DatasetError, match="not both and not neither"):
        ModelFolderDataset()
    with pytest.raises(DatasetError, match="not both and not neither"):
        ModelFolderDataset(filepath="a", hub_id="b")
    with pytest.raises(DatasetError, match="belong to a 'hub_id'"):
        ModelFolderDataset(filepath="a", revision="b")
    with pytest.raises(DatasetError, match="give a 'filepath'"):
        ModelFolderDataset(hub_id="b").save(writer())


def test_from_a_catalog(folder):
    entry = {"type": "fisao_pipeline.datasets.ModelFolderDataset", "filepath": str(folder), "device": "cpu"}
    catalog = DataCatalog.from_config({"policy_backbone": entry})
    catalog.save("policy_backbone", writer())
    assert catalog.load("policy_backbone").device == "cpu"
