"""The adapter reaches the language tower and nothing else."""

import re
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.gpu.dtypes import output_types
from tests.pocket_models import LORA, stir
from transformers import CLIPModel

from fisao_pipeline.models import lora as lora_module
from fisao_pipeline.models.checkpointing import checkpoint_activations
from fisao_pipeline.models.lora import (
    attach_lora,
    computing_as_backbone,
    language_tower_name,
    lora_target_pattern,
)
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.params.lora import LoraParams


def adapted(model) -> set[str]:
    """Names of the layers that carry an adapter."""
    return {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}


def test_no_adapter_outside_the_language_tower(world):
    policy = world.policy()
    layers = adapted(policy.model)
    assert len(layers) == 3 * 3, "three layers, three targets"
    assert all(".language_model.layers." in name for name in layers)
    assert not any("vision" in name or "projector" in name or "lm_head" in name for name in layers)


def test_a_bare_name_would_have_reached_the_vision_tower(world):
    """Why targets are spelled out: CLIP's attention has a q_proj too."""
    model = world.policy(lora=None).backbone
    bare = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    assert any(".vision_tower." in name for name in adapted(bare))


def test_the_pattern_matches_whole_names(world):
    model = world.policy(lora=None).backbone
    pattern = re.compile(lora_target_pattern(model, ("q_proj", "down_proj")))
    matched = [name for name, _ in model.named_modules() if pattern.fullmatch(name)]
    assert len(matched) == 2 * 3
    assert {name.rsplit(".", 1)[-1] for name in matched} == {"q_proj", "down_proj"}


def test_only_the_adapter_trains_and_it_starts_at_zero(world):
    model = world.policy().model
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trainable and all(".lora_" in name for name in trainable)
    assert all((p == 0).all() for name, p in trainable.items() if ".lora_B." in name)
    assert all((p != 0).any() for name, p in trainable.items() if ".lora_A." in name)
    assert {p.dtype for p in trainable.values()} == {torch.float32}


def test_an_unknown_target_is_named_with_what_there_is(world):
    model = world.policy(lora=None).backbone
    with pytest.raises(ValueError, match=r"targets: \['query'\].*language_model.*'q_proj'"):
        attach_lora(model, LoraParams(rank=2, alpha=4, targets=("q_proj", "query")))


def test_a_pattern_that_reaches_further_is_refused(world, monkeypatch):
    """Should the pattern ever fail, training does not start."""
    monkeypatch.setattr(lora_module, "lora_target_pattern", lambda _model, _targets: r".*\.q_proj")
    with pytest.raises(ValueError, match="outside the language tower"):
        attach_lora(world.policy(lora=None).backbone, LORA)


def test_the_language_tower_is_found_in_the_module_tree(world):
    model = world.policy(lora=None).backbone
    tower = model.get_submodule(language_tower_name(model))
    assert tower is model.get_decoder()
    assert sum(p.numel() for p in tower.parameters()) < sum(p.numel() for p in model.parameters())


def test_a_model_without_one_is_refused(world):
    model = CLIPModel.from_pretrained(world.verifier_source.path_or_id)
    model.get_decoder = lambda: model
    with pytest.raises(ValueError, match="CLIPModel has no language tower"):
        language_tower_name(model)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapter_computes_as_its_backbone_and_learns_in_float32(world, checkpointing):
    torch.manual_seed(0)
    policy = stir(Policy.load(replace(world.policy_source, dtype="bfloat16"), lora=LORA))
    if checkpointing:
        checkpoint_activations(policy.backbone)
    ids, mask = torch.full((4, 6), 7), torch.ones(4, 6, dtype=torch.bool)
    kept: set[torch.dtype] = set()
    with (
        output_types(policy) as types,
        torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.add((x.dtype, x.shape[-1])), x)[1], lambda x: x),
    ):
        logprobs, _ = policy.score(world.batch(policy, 2), ids, mask, 1.0, prompt_of_row=[0, 0, 1, 1])
    assert types == {torch.bfloat16}
    logprobs.sum().backward()
    gradients = [p.grad for p in policy.adapter_parameters()]
    assert {g.dtype for g in gradients} == {torch.float32} and all(g.isfinite().all() for g in gradients)
    text = policy.backbone.config.get_text_config()
    assert (torch.float32, text.intermediate_size) not in kept, "no float32 copy of a layer's input"

    fine = stir(Policy.load(world.policy_source, lora=LORA))
    fine.load_trainable_state(policy.trainable_state())
    wanted, _ = fine.score(world.batch(fine, 2), ids, mask, 1.0, prompt_of_row=[0, 0, 1, 1])
    wanted.sum().backward()
    flat, right = (
        torch.cat([g.flatten() for g in side]) for side in (gradients, [p.grad for p in fine.adapter_parameters()])
    )
    assert torch.nn.functional.cosine_similarity(flat, right, dim=0) > 0.98


def test_a_fresh_adapter_in_bfloat16_is_its_reference_bit_for_bit(world):
    policy = Policy.load(replace(world.policy_source, dtype="bfloat16"), lora=LORA)
    ids, mask = torch.full((2, 6), 7), torch.ones(2, 6, dtype=torch.bool)
    with torch.no_grad():
        own, reference = (
            policy.score(world.batch(policy, 2), ids, mask, 1.0, reference=off)[0] for off in (False, True)
        )
    assert torch.equal(own, reference)


def test_nothing_is_cast_in_float32(world):
    policy = world.policy()
    with computing_as_backbone(policy.model):
        assert not torch.is_autocast_enabled("cpu")
