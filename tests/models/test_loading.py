"""Loading: what is missing is named, and nothing asks a network."""

import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText, PreTrainedModel

from fisao_pipeline.models.loading import load_pretrained, resolve_device
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.source import (
    ModelNotFoundError,
    ModelSource,
    find_model,
    fingerprint,
    looks_local,
    missing_model_files,
)
from fisao_pipeline.models.verifier import load_verifier

SHIPPED_MODELS = Path(__file__).parents[2] / "data" / "06_models"


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


NEEDED = {
    "pocket_vlm": ("chat_template.jinja",),
    "pocket_instructblip": ("qformer_tokenizer/tokenizer.json", "qformer_tokenizer/tokenizer_config.json"),
    "pocket_verifier": (),
    "pocket_blip2": (),
}
OF_EACH = ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "processor_config.json")
WITHOUT_A_FILE = [(name, file) for name, own in NEEDED.items() for file in (*OF_EACH, *own)]


def place(model: Path, tmp_path: Path, where: str, monkeypatch) -> tuple[Path, ModelSource]:
    """A copy of a model in a folder, or in the hub's cache, and the source that names it."""
    if where == "folder":
        folder = shutil.copytree(model, tmp_path / "model")
        return folder, ModelSource(str(folder), device="cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "1" * 40
    folder = shutil.copytree(model, tmp_path / "hub" / "models--organisation--model" / "snapshots" / commit)
    return folder, ModelSource("organisation/model", commit, device="cpu")


def weights_are_read(*_arguments, **_options):
    raise AssertionError("weights were read")


def load_any(source: ModelSource, name: str):
    return load_verifier(source) if name in ("pocket_verifier", "pocket_blip2") else Policy.load(source, lora=None)


@pytest.mark.parametrize("where", ["folder", "cache"])
@pytest.mark.parametrize(("name", "file"), WITHOUT_A_FILE)
def test_a_shipped_model_without_a_file_is_refused_before_its_weights_are_read(
    no_network, tmp_path, monkeypatch, name, file, where
):
    """Without its vocabulary a tokenizer may load all the same, and read every word as unknown."""
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", weights_are_read)
    folder, source = place(SHIPPED_MODELS / name, tmp_path, where, monkeypatch)
    assert missing_model_files(folder) == []
    (folder / file).unlink()
    if (where, file) == ("cache", "model.safetensors"):  # then it is as if it had never been downloaded
        with pytest.raises(ModelNotFoundError, match=r"nor in the local Hugging Face cache.*hf download organisation"):
            load_any(source, name)
        return
    with pytest.raises(ModelNotFoundError, match=r"is not complete: .* missing\. Download or copy it again") as refusal:
        load_any(source, name)
    said = str(refusal.value)
    assert source.path_or_id in said
    assert all(part in said for part in file.split("/"))


@pytest.mark.parametrize("name", NEEDED)
def test_each_file_of_a_shipped_model_that_has_to_be_there_is_tried(name):
    files = {file.relative_to(SHIPPED_MODELS / name).as_posix() for file in (SHIPPED_MODELS / name).rglob("*.*")}
    assert files - {"config.json", "generation_config.json", "provenance.json"} == {*OF_EACH, *NEEDED[name]}


@pytest.mark.parametrize(
    "files",
    [
        ("tokenizer.model", "preprocessor_config.json"),
        ("spiece.model", "preprocessor_config.json"),
        ("vocab.txt", "preprocessor_config.json"),
        ("vocab.json", "merges.txt", "preprocessor_config.json", "processor_config.json"),
    ],
)
def test_models_of_the_hub_are_laid_out_in_other_ways(world, tmp_path, files):
    """`processor_config.json` held no image processor before transformers 5, and tokenizers had files of their own."""
    folder = shutil.copytree(world.policy_source.path_or_id, tmp_path / "model")
    for file in ("tokenizer.json", "processor_config.json"):
        (folder / file).unlink()
    for file in files:
        (folder / file).write_text("{}")
    assert missing_model_files(folder) == []
    for file in set(files) - {"processor_config.json"}:
        (folder / file).unlink()
        (lacking,) = missing_model_files(folder)
        assert file in lacking
        (folder / file).touch()


def spoil_processor(folder: Path) -> None:
    """As a download that was cut off leaves the words."""
    words = folder / "tokenizer.json"
    words.write_bytes(words.read_bytes()[:2000])


def forget_words(folder: Path) -> None:
    """The vocabulary of another class, which the model's own does not look for."""
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").touch()


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("pocket_vlm", spoil_processor, r"cannot be loaded \(.*\)\. Look at the options .* copy its files again"),
        ("pocket_vlm", forget_words, "cannot be loaded .* copy its files again"),
        ("pocket_instructblip", forget_words, "has a tokenizer without words.* than LlamaTokenizer"),
        (
            "pocket_instructblip",
            lambda folder: forget_words(folder / "qformer_tokenizer"),
            "has a qformer_tokenizer without words.* than BertTokenizer. Download or copy its files again",
        ),
        ("pocket_verifier", forget_words, "has a tokenizer without words.* than CLIPTokenizer"),
        ("pocket_blip2", forget_words, "has a tokenizer without words.* than BertTokenizer"),
    ],
)
def test_a_processor_that_cannot_work_is_refused_before_gigabytes_are_read(
    no_network, tmp_path, monkeypatch, name, spoil, said
):
    folder, source = place(SHIPPED_MODELS / name, tmp_path, "folder", monkeypatch)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", weights_are_read)
    spoil(folder)
    with pytest.raises(ValueError, match=f"^the processor of '{folder}' {said}"):
        load_any(source, name)


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


def test_a_device_that_torch_does_not_know_is_named():
    with pytest.raises(ValueError, match=r"device 'gpu' is not known; set `device: auto`"):
        resolve_device("gpu")


def test_a_gpu_beyond_those_that_are_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match=r"device 'cuda:2': there are 2, counted from 0"):
        resolve_device("cuda:2")


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="it is installed")
def test_attention_whose_package_is_not_installed_is_named(world):
    options = {"model": {"attn_implementation": "flash_attention_2"}}
    source = ModelSource(world.policy_source.path_or_id, device="cpu", options=options)
    with pytest.raises(
        ImportError, match=r"^`attn_implementation: flash_attention_2` .* of '.*' cannot be used here: "
    ):
        Policy.load(source)


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
