"""Models that cannot be used, as an environment's catalog names them: told before the first stage, or by the plan."""

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.smoke_project import Smoke
from transformers.utils import hub

from fisao_pipeline.models import packages
from fisao_pipeline.models.loading import load_pretrained
from fisao_pipeline.models.source import ModelNotFoundError, ModelSource
from fisao_pipeline.models.verifier import load_verifier
from fisao_pipeline.runs.preflight import NotReadyError

HUB_ID = "organisation/my-llava"
PINNED, OTHER = "1" * 40, "2" * 40


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, mlflow_template) -> Smoke:
    return Smoke.make(tmp_path_factory.mktemp("bad_models") / "project", mlflow_template)


@pytest.fixture(autouse=True)
def own_store(smoke, no_stray_mlflow_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)


@pytest.fixture
def catalog(smoke) -> Iterator[Callable[..., None]]:
    """Writes an entry of the environment's catalog anew; all is as before afterwards."""
    file = smoke.root / "conf" / "smoke" / "catalog.yml"
    before = file.read_text() if file.is_file() else None

    def write(name: str, **entry) -> None:
        named = {"type": "fisao_pipeline.datasets.ModelFolderDataset", "dtype": "float32", **entry}
        file.write_text(yaml.safe_dump({**yaml.safe_load(before or "{}"), name: named}))

    yield write
    if before is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(before)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, and no network."""

    def refuse(*_arguments, **_options):
        raise OSError("no network in this test")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path / "hub"


def downloaded(cache: Path, model: Path, revision: str) -> Path:
    """The snapshot that `hf download` leaves of a model."""
    repository = cache / ("models--" + HUB_ID.replace("/", "--"))
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(revision)
    return shutil.copytree(model, repository / "snapshots" / revision)


def sharded(model: Path, folder: Path) -> Path:
    """A copy of a model in three shards."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    of = {name: f"model-{number % 3 + 1:05d}-of-00003.safetensors" for number, name in enumerate(sorted(weights))}
    for shard in set(of.values()):
        part = {name: weights[name] for name in weights if of[name] == shard}
        save_file(part, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def model_of(smoke: Smoke, name: str = "pocket_vlm") -> Path:
    return smoke.root / "data" / "smoke" / "06_models" / name


def refusal(smoke: Smoke, pipeline: str = "train") -> str:
    """What a run says in place of beginning."""
    with pytest.raises(NotReadyError) as error:
        smoke.run(pipeline)
    return str(error.value)


def test_a_hub_id_that_was_never_downloaded(smoke, catalog, cache):
    catalog("policy_backbone", hub_id=HUB_ID, revision=PINNED)
    (line,) = [line for line in refusal(smoke).splitlines() if HUB_ID in line]
    assert f"'{HUB_ID}' (revision {PINNED}) is neither a folder nor in the local Hugging Face cache. " in line
    assert f"`hf download {HUB_ID} --revision {PINNED}`" in line
    assert "allow_download: true" in line


def test_a_download_without_a_network(cache, monkeypatch):
    """The entry allows it, and the model has to be loaded to find out."""
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    source = ModelSource(HUB_ID, PINNED, allow_download=True)
    for load in (load_verifier, lambda source: load_pretrained(None, source)):
        with pytest.raises(
            ModelNotFoundError, match=rf"cannot be downloaded.*hf download {HUB_ID} --revision {PINNED}"
        ):
            load(source)


def test_another_revision_than_the_pinned_one(smoke, catalog, cache):
    downloaded(cache, model_of(smoke), OTHER)
    catalog("policy_backbone", hub_id=HUB_ID, revision=PINNED)
    (line,) = [line for line in refusal(smoke).splitlines() if HUB_ID in line]
    assert f"(revision {PINNED}) is neither a folder nor in the local Hugging Face cache" in line
    assert f"at that revision; the cache holds {OTHER}" in line
    assert f"hf download {HUB_ID} --revision {PINNED}" in line
    catalog("policy_backbone", hub_id=HUB_ID, revision=OTHER)
    assert HUB_ID not in refusal(smoke), "the revision that is there is taken"


@pytest.mark.parametrize("where", ["folder", "cache"])
def test_a_download_that_lacks_a_shard(smoke, catalog, cache, tmp_path, where):
    model = sharded(model_of(smoke), tmp_path / "sharded")
    if where == "cache":
        model = downloaded(cache, model, PINNED)
        catalog("policy_backbone", hub_id=HUB_ID, revision=PINNED)
    else:
        catalog("policy_backbone", filepath=str(model))
    assert "not complete" not in refusal(smoke)
    (model / "model-00002-of-00003.safetensors").unlink()
    name = HUB_ID if where == "cache" else str(model)
    said = f"- the model '{name}' is not complete: model-00002-of-00003.safetensors missing. Download or copy it again."
    assert said in refusal(smoke).splitlines()


def test_a_download_that_was_cut_off(smoke, catalog, tmp_path):
    model = sharded(model_of(smoke), tmp_path / "sharded")
    shard = model / "model-00003-of-00003.safetensors"
    whole = shard.read_bytes()
    catalog("policy_backbone", filepath=str(model))
    for kept, said in (
        (len(whole) - 1, f"the end of {shard.name} ({len(whole) - 1:,} of {len(whole):,} bytes are there)"),
        (100, f"the end of {shard.name} (100 of "),
        (4, f"a readable {shard.name}"),
        (0, f"a readable {shard.name}"),
    ):
        shard.write_bytes(whole[:kept])
        assert f"is not complete: {said}" in refusal(smoke), kept


@pytest.mark.parametrize(("entry", "model"), [("policy_backbone", "pocket_vlm"), ("verifier", "pocket_verifier")])
def test_a_model_that_wants_to_run_code_of_its_own(smoke, catalog, tmp_path, entry, model):
    """The plan refuses it, and so do a run and whatever loads it; the code is never looked at."""
    folder = shutil.copytree(model_of(smoke, model), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "deep_thought", "auto_map": {"AutoConfig": "configuration.DeepThoughtConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration.py").write_text("raise AssertionError('this must not run')")
    catalog(entry, filepath=str(folder))
    said = rf"'{folder}' \(model type 'deep_thought'\) brings Python code of its own .*refused, whoever published it"
    with pytest.raises(ValueError, match=rf"- {entry}: {said}"):
        smoke.run("plan")
    assert re.search(rf"- {entry}: {said}", refusal(smoke))
    with pytest.raises(ValueError, match=said):
        load_verifier(ModelSource(str(folder)))


def faults_of_plan(smoke: Smoke) -> list[str]:
    """Of the two models; images and prompts are missing too."""
    with pytest.raises(ValueError, match="would not go through") as refusal:
        smoke.run("plan")
    lines = [line.removeprefix("- ") for line in str(refusal.value).splitlines()]
    return [line for line in lines if line.startswith(("policy_backbone: ", "verifier: ", "the model "))]


MODELS = [("policy_backbone", "pocket_vlm"), ("verifier", "pocket_verifier")]


@pytest.mark.parametrize(("entry", "model"), MODELS)
def test_the_plan_refuses_a_processor_that_wants_to_run_code_of_its_own(smoke, catalog, tmp_path, entry, model):
    folder = shutil.copytree(model_of(smoke, model), tmp_path / "model")
    config = json.loads((folder / "processor_config.json").read_text())
    own = {"processor_class": "DeepThoughtProcessor", "auto_map": {"AutoProcessor": "processing.DeepThought"}}
    (folder / "processor_config.json").write_text(json.dumps({**config, **own}))
    (folder / "processing.py").write_text("raise AssertionError('this must not run')")
    catalog(entry, filepath=str(folder))
    (fault,) = faults_of_plan(smoke)
    assert fault.startswith(f"{entry}: the processor of '{folder}' brings Python code of its own")
    assert smoke.record("plan")["policy"]["parameters"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(("entry", "model"), MODELS)
def test_the_plan_lists_wrong_options_and_a_device_that_is_not_there(smoke, catalog, entry, model):
    path = str(model_of(smoke, model))
    catalog(entry, filepath=path, device="cuda:7", options={"modle": {"attn_implementation": "eager"}})
    assert [fault[: len(entry) + 40] for fault in faults_of_plan(smoke)] == [
        f"{entry}: options of '{path}"[: len(entry) + 40],
        f"{entry}: device 'cuda:7': no CUDA device was found; set"[: len(entry) + 40],
    ]
    assert "'modle' is not known; there are `model` and `processor`" in faults_of_plan(smoke)[0]


def test_the_plan_refuses_options_that_are_no_mapping_once(smoke, catalog):
    catalog("policy_backbone", filepath=str(model_of(smoke)), options={"model": "eager"})
    (fault,) = faults_of_plan(smoke)
    assert "'model' is not known; there are `model` and `processor`, each a mapping" in fault


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="it is installed")
@pytest.mark.parametrize(("entry", "model"), MODELS)
def test_the_plan_lists_attention_whose_package_is_not_installed(smoke, catalog, entry, model):
    options = {"model": {"attn_implementation": "flash_attention_2"}}
    catalog(entry, filepath=str(model_of(smoke, model)), options=options)
    (fault,) = faults_of_plan(smoke)
    assert fault.startswith(f"{entry}: `attn_implementation: flash_attention_2` among the options of ")
    assert fault.endswith("Install its package, or take the option out")


def test_the_plan_refuses_a_verifier_in_4_bits_and_a_policy_without_a_type_to_compute_in(smoke, catalog, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: object())
    catalog("verifier", filepath=str(model_of(smoke, "pocket_verifier")), quantization="nf4")
    (fault,) = faults_of_plan(smoke)
    assert fault.startswith("verifier: ") and "only a policy can be quantized" in fault
    catalog("policy_backbone", filepath=str(model_of(smoke)), quantization="nf4", dtype="auto")
    (fault,) = faults_of_plan(smoke)
    assert fault.startswith("policy_backbone: `quantization: nf4`") and "set `dtype: bfloat16`" in fault


def test_the_plan_looks_at_the_processor_of_a_model_whose_weights_are_missing(smoke, catalog, tmp_path):
    folder = shutil.copytree(model_of(smoke), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    words = folder / "tokenizer.json"
    words.write_bytes(words.read_bytes()[:2000])
    catalog("policy_backbone", filepath=str(folder))
    incomplete, unreadable = faults_of_plan(smoke)
    assert "is not complete: model.safetensors missing" in incomplete
    assert unreadable.startswith(f"policy_backbone: the processor of '{folder}' cannot be loaded")
    words.unlink()
    (incomplete,) = faults_of_plan(smoke)
    assert "model.safetensors, a tokenizer (tokenizer.json or " in incomplete


@pytest.mark.parametrize(
    ("entry", "model", "said"),
    [
        ("policy_backbone", "pocket_verifier", "policy '{}' is of type 'clip', which cannot be trained here"),
        ("verifier", "pocket_vlm", "verifier '{}' is a LlavaModel: it has no text tower to score words with"),
    ],
)
def test_a_model_of_another_kind_is_told_before_the_first_node(smoke, catalog, entry, model, said):
    catalog(entry, filepath=str(model_of(smoke, model)))
    assert f"- {entry}: {said.format(model_of(smoke, model))}" in refusal(smoke)
    (fault,) = faults_of_plan(smoke)
    assert fault.startswith(f"{entry}: {said.format(model_of(smoke, model))}")
    assert entry not in refusal(smoke, "image_ingestion"), "which reads no model"
    catalog(entry, filepath=str(model_of(smoke, {"verifier": "pocket_verifier"}.get(entry, "pocket_vlm"))))
    assert entry not in refusal(smoke)
