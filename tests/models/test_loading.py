"""Loading: what is missing is named, and nothing asks a network."""

import shutil
import socket

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText

from fisao_pipeline.models.loading import load_pretrained, resolve_device
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.source import ModelNotFoundError, ModelSource, find_model, fingerprint, looks_local


@pytest.fixture
def no_network(monkeypatch):
    """Any connection is a failure of the test."""
    tried = []

    def refuse(*arguments, **_options):
        tried.append(arguments)
        raise AssertionError(f"a connection was tried: {arguments}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert not tried


def test_a_missing_folder_is_named_without_asking_a_network(no_network, tmp_path):
    path = tmp_path / "no" / "model"
    with pytest.raises(ModelNotFoundError, match=f"no model folder '{path}'.*hf download"):
        Policy.load(ModelSource(str(path)))


def test_a_missing_pocket_model_says_how_it_is_built(no_network):
    with pytest.raises(ModelNotFoundError, match="kedro run --pipelines=pocket_world"):
        find_model("data/06_models/pocket_nothing")


def test_a_hub_id_that_is_not_cached_is_refused_without_asking(no_network, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=r"'organisation/no-model'.*hf download organisation/no-model"):
        load_pretrained(AutoModel, ModelSource("organisation/no-model"))


@pytest.mark.parametrize("load", [Policy.load, lambda source: load_pretrained(AutoModel, source)])
def test_a_model_without_all_of_its_files_is_refused_by_their_names(no_network, world, tmp_path, load):
    """In a notebook too, where no run looks at the files first."""
    folder = shutil.copytree(world.policy_source.path_or_id, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"model' is not complete: the end of model\.safetensors .*tokenizer"):
        load(ModelSource(str(folder), dtype="float32"))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"holds no config\.json"):
        find_model(str(tmp_path))


def test_a_loaded_model_is_frozen_and_of_the_type_asked_for(world, no_network):
    source = ModelSource(world.policy_source.path_or_id, dtype="bfloat16", device="cpu")
    model, processor = load_pretrained(AutoModelForImageTextToText, source)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.parameters())
    assert processor.tokenizer.padding_side == "left"


def test_weights_that_could_run_code_are_not_read(world, tmp_path):
    """A pickle is no safetensors file."""
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(world.policy_source.path_or_id, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_pretrained(AutoModelForImageTextToText, ModelSource(str(folder)))


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"'cuda:1'.*no CUDA device.*device: auto"):
        resolve_device("cuda:1")


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("data/x", True),
        ("./x", True),
        ("/x/y", True),
        ("~/m", True),
        ("a/b/c", True),
        ("org/name", False),
        ("m", False),
    ],
)
def test_what_looks_like_a_path(name, local):
    assert looks_local(name) is local


def test_a_fingerprint_follows_the_content_and_not_the_provenance(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    first = fingerprint(tmp_path)
    (tmp_path / "provenance.json").write_text("anything")
    assert fingerprint(tmp_path) == first
    (tmp_path / "config.json").write_text("[]")
    assert fingerprint(tmp_path) != first
