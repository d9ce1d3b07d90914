"""The plan through Kedro: an artifact, a table, and all that is missing in one list."""

import json

import pytest
from tests.smoke_project import Smoke

from fisao_pipeline.models import packages
from fisao_pipeline.params.plan import PlanParams
from fisao_pipeline.pipelines.plan import nodes


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
    assert [card["name"] for card in plan["cards"]] == ["RTX 4090", "H100", "H200", "A100"]
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
