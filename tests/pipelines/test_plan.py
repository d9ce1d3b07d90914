"""The plan through Kedro: an artifact, a table, and all that is missing in one list."""

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from tests.smoke_project import PROJECT, Smoke

from fisao_pipeline.models import packages
from fisao_pipeline.params.plan import PlanParams
from fisao_pipeline.pipelines.plan import nodes
from fisao_pipeline.runs import plan_hooks


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, mlflow_template) -> Smoke:
    return Smoke.make(tmp_path_factory.mktemp("smoke") / "project", mlflow_template)


@pytest.fixture(autouse=True)
def own_store(smoke, no_stray_mlflow_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)


def test_weights_that_are_not_there_are_planned_for_and_listed_with_all_else(smoke, capsys):
    """Configurations are enough for the figures; images, annotations, prompts and weights are missing."""
    models = smoke.root / "data" / "smoke" / "06_models"
    weights = models / "pocket_vlm" / "model.safetensors"
    aside = weights.with_name("aside")
    size = weights.stat().st_size
    weights.rename(aside)
    try:
        with pytest.raises(ValueError, match="would not go through") as refusal:
            smoke.run("plan", reward_annotation={"vocabulary": "no/such/words.txt"})
    finally:
        aside.rename(weights)
    faults = str(refusal.value).splitlines()[1:]
    for words in (
        "Image folder",
        "annotations.json does not exist",
        "prompts.jsonl",
        "pocket_vlm' is not complete: model.safetensors missing",
        "reward_annotation.vocabulary: ",
    ):
        assert sum(words in fault for fault in faults) == 1, words
    assert len(faults) == 5
    plan = smoke.record("plan")
    assert plan["faults"] == [fault.removeprefix("- ") for fault in faults]
    assert 0 < size - plan["memory_bytes"]["policy"] < 50_000
    names = ["RTX 4090", "H100", "H200", "A100", "A100-SXM4-40GB", "L40S", "RTX A6000", "RTX 3090"]
    assert [card["name"] for card in plan["cards"]] == names
    assert all(card["total_hours"] > 0 and card["fault"] is None for card in plan["cards"])
    said = capsys.readouterr().out
    assert f"{plan['policy']['parameters']:,} parameters in float32" in said
    assert "No GPU was found here" in said
    assert plan["policy"]["unpacked"] is None and "behind its own prompt" not in said


def test_a_gpu_that_is_too_small_is_told_with_what_to_change(smoke, monkeypatch):
    def small(params: PlanParams):
        return params.cards[0].model_copy(update={"name": "Small", "memory_gib": params.reserve_gib + 0.01})

    monkeypatch.setattr(nodes, "card_here", small)
    with pytest.raises(ValueError, match="would not go through") as refusal:
        smoke.run("plan")
    (fault,) = [line for line in str(refusal.value).splitlines() if line.startswith("- Small")]
    assert "too small" in fault
    assert json.dumps(smoke.record("plan")["cards"][0]["fault"])[1:-1] in json.dumps(fault)


def test_the_plan_says_whose_eyes_the_verifier_has_and_what_cannot_be_compared(smoke, capsys):
    changes = {"responses_per_prompt": 1}, {"trainer": "dpo"}
    with pytest.raises(ValueError, match=r"policy_training: trainer `dpo`.*responses_per_prompt is 1"):
        smoke.run("plan", response_sampling=changes[0], policy_training=changes[1])
    assert smoke.record("plan")["own_encoder"] is True
    assert "sees with the own encoder of policy" in capsys.readouterr().out


@pytest.mark.parametrize("installed", [True, False])
def test_a_sampler_that_is_not_installed_is_told(smoke, monkeypatch, installed):
    monkeypatch.setattr(packages, "find_spec", lambda name: object() if installed else None)
    with pytest.raises(ValueError, match="would not go through"):
        smoke.run("plan", response_sampling={"sampler": "vllm"})
    said = [fault for fault in smoke.record("plan")["faults"] if "sampler `vllm`" in fault]
    assert bool(said) is not installed
    assert installed or said == ["response_sampling.sampler `vllm` needs vllm: `pip install 'fisao-pipeline[vllm]'`"]


def put_gpu(monkeypatch, name: str, gib: float, free_gib: float) -> None:
    """A GPU of that name, size and free memory, as far as torch is asked."""
    properties = SimpleNamespace(name=name, total_memory=int(gib * 2**30))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (int(free_gib * 2**30), properties.total_memory))


@pytest.fixture(scope="module")
def shipped() -> PlanParams:
    return PlanParams(**yaml.safe_load((PROJECT / "conf" / "base" / "parameters_plan.yml").read_text())["plan"])


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-SXM4-40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
    ],
)
def test_names_of_gpus_find_their_peaks(shipped, monkeypatch, name, entry):
    (wanted,) = [card for card in shipped.cards if card.name == entry]
    put_gpu(monkeypatch, name, 30, 29.5)
    assert nodes.card_here(shipped) == wanted.model_copy(update={"name": name, "memory_gib": 29.5})


def test_a_gpu_that_nobody_named_is_told(shipped, monkeypatch):
    put_gpu(monkeypatch, "NVIDIA L4", 22, 22)
    with pytest.raises(ValueError, match="'NVIDIA L4' is none of plan"):
        nodes.card_here(shipped)


def test_what_others_take_of_a_gpu_is_not_planned_with(smoke, monkeypatch, capsys):
    put_gpu(monkeypatch, "NVIDIA GeForce RTX 4090", 24, 12)
    with pytest.raises(ValueError, match="would not go through"):
        smoke.run("plan")
    (card,) = smoke.record("plan")["cards"]
    assert card["memory_gib"] == 12
    assert "- Of the 24.0 GiB of NVIDIA GeForce RTX 4090 only 12.0 are free now" in capsys.readouterr().out
    put_gpu(monkeypatch, "NVIDIA GeForce RTX 4090", 24, 23)
    assert nodes.memory_taken() is None


def test_a_gpu_that_others_take_whole_is_a_fault(smoke, monkeypatch):
    def refuse(_device):
        raise torch.cuda.OutOfMemoryError("CUDA error: out of memory")

    put_gpu(monkeypatch, "NVIDIA GeForce RTX 4090", 24, 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", refuse)
    with pytest.raises(ValueError, match=r"RTX 4090' cannot be used now \(CUDA error: out of memory\): `nvidia-smi`"):
        smoke.run("plan")


def test_files_that_cannot_be_parsed_are_told_before_ingestion(smoke, monkeypatch):
    smoke.run("pocket_world", tags=["scenes"])
    smoke.run("plan")
    scenes = smoke.root / "data" / "smoke" / "01_raw" / "pocket_scenes"
    with (scenes / "prompts.jsonl").open("a") as stream:
        stream.write('{"prompt_id": \n')
    (scenes / "annotations.json").write_text("[1, 2")
    with pytest.raises(ValueError, match="would not go through") as refusal:
        smoke.run("plan")
    annotations, prompts = str(refusal.value).splitlines()[1:]
    assert annotations.startswith(f"- raw_annotations: {scenes}/annotations.json is not valid JSON at line 1, column 6")
    assert prompts.startswith(f"- raw_prompts: {scenes}/prompts.jsonl is not valid JSON at line ")
    monkeypatch.setattr(plan_hooks, "_READ_THROUGH_BYTES", 10)
    with pytest.raises(ValueError, match="would not go through") as refusal:
        smoke.run("plan")
    assert "prompts.jsonl" not in str(refusal.value), "ingestion tells it of a file that takes long to read"
