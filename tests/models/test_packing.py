"""Completions behind copies of their prompt: as many copies as cost least, dealt evenly, the same logprobs."""

import logging
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.counting import counted
from tests.pocket_models import stir

from fisao_pipeline.models.backbones.choice import KINDS
from fisao_pipeline.models.lora import language_tower_name
from fisao_pipeline.models.packing import pack_count, share_out
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.shape import policy_shape
from fisao_pipeline.params.lora import LoraParams

LORA = LoraParams(rank=4, alpha=8, targets=("q_proj", "v_proj"))


@pytest.mark.parametrize(
    ("prompt", "copies", "length", "linear_tokens", "packs"),
    [
        (640, 4, 512, 24_704, 1),  # LLaVA-1.5-7B: best at about 7.9 a pack
        (640, 8, 512, 24_704, 1),
        (640, 16, 512, 24_704, 2),
        (640, 9, 512, 24_704, 1),
        (640, 64, 512, 24_704, 8),
        (640, 32, 128, 24_704, 1),
        (68, 32, 128, 784, 16),  # the pocket model: best at about 1.9
        (68, 32, 24, 784, 4),
        (68, 1, 500, 784, 1),
        (68, 32, 128, math.inf, 1),
    ],
)
def test_packs_are_of_about_the_best_size(prompt, copies, length, linear_tokens, packs):
    assert pack_count(prompt, [[length] * copies], linear_tokens) == packs
    assert pack_count(prompt, [[length] * copies] * 3, linear_tokens) == packs


def test_the_cost_of_a_response_no_longer_grows_with_their_number():
    def cost(copies, packs):
        length = 640 + copies / packs * 512
        return packs * length * (24_704 + length) / copies

    costs = {copies: cost(copies, pack_count(640, [[512] * copies], 24_704)) for copies in (8, 16, 32, 64)}
    assert max(costs.values()) < 1.01 * costs[8]
    assert cost(64, 1) > 1.7 * costs[64]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), min_size=1, max_size=20),
    st.integers(1, 8),
)
def test_dealing_keeps_prompts_and_evens_lengths(rows, packs):
    owners, lengths = [prompt for prompt, _ in rows], [length for _, length in rows]
    prompts, pack_of_row = share_out(owners, lengths, packs)
    assert [prompts[pack] for pack in pack_of_row] == owners
    assert set(pack_of_row) == set(range(len(prompts)))
    assert prompts == sorted(prompts)
    for prompt in set(owners):
        own = [row for row, owner in enumerate(owners) if owner == prompt]
        filled = {}
        for row in own:
            filled.setdefault(pack_of_row[row], []).append(lengths[row])
        assert len(filled) == min(packs, len(own))
        totals = [sum(pack) for pack in filled.values()]
        assert max(totals) - min(totals) <= max(lengths[row] for row in own)


@pytest.mark.parametrize("copies", [4, 32])
def test_many_and_long_completions_share_out_and_score_as_alone(world, copies):
    policy = stir(world.policy(LORA))
    batch = world.batch(policy, 2)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(300, 450, (2 * copies, 60), generator=generator)
    mask = torch.arange(60) < torch.randint(20, 61, (2 * copies, 1), generator=generator)
    owners = [row // copies for row in range(2 * copies)]
    with torch.no_grad(), counted(policy) as done:
        shared, _ = policy.score(batch, ids, mask, 1.0, prompt_of_row=owners)
    with torch.no_grad():
        alone, _ = policy.score(batch.rows(owners), ids, mask, 1.0)
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=0)
    assert done["language passes"] == 1
    groups = [mask[:copies].sum(dim=1).tolist(), mask[copies:].sum(dim=1).tolist()]
    packs = pack_count(batch.input_ids.shape[1], groups, policy._linear_tokens)
    assert (packs > 1) == (copies > 4)
    width = batch.input_ids.shape[1]
    at_most = 2 * (packs * width + 1.1 * max(map(sum, groups)))
    assert done["positions"] < at_most + packs * 2 * 60
    assert done["positions"] >= 2 * packs * width + sum(map(sum, groups)), "a copy of the prompt a pack"


def test_the_plan_and_the_policy_share_out_alike(world):
    policy, shape = world.policy(LORA), policy_shape(world.policy_source, LORA)
    assert policy._linear_tokens == shape.linear_tokens
    tower = policy.backbone.get_submodule(language_tower_name(policy.backbone))
    config = policy.backbone.config.get_text_config()
    layer = tower.layers[0]
    weights = sum(p.numel() for n, p in layer.named_parameters() if p.ndim == 2 and "lora_" not in n)
    assert policy._linear_tokens == weights / (2 * config.hidden_size)


# --- what is not packed says why -----------------------------------------------------------------------------------

SAID = "Completions are scored each behind its own prompt: "


def scored_said(world, policy, caplog, owners) -> list[str]:
    """What is logged while completions of so many prompts are scored twice."""
    batch = world.batch(policy, 2)
    ids = torch.full((len(owners), 3), 300)
    with torch.no_grad(), caplog.at_level(logging.INFO, logger="fisao_pipeline"):
        for _ in range(2):
            policy.score(batch, ids, torch.ones_like(ids, dtype=torch.bool), 1.0, prompt_of_row=owners)
    said = [record.getMessage() for record in caplog.records]
    return [line for line in said if line.startswith(SAID)]


def with_attention(world, name) -> Policy:
    return Policy.load(replace(world.policy_source, options={"model": {"attn_implementation": name}}), LORA)


def test_what_cannot_be_packed_says_why_once(world, caplog):
    policy = with_attention(world, "eager")
    (said,) = scored_said(world, policy, caplog, [0, 0, 1, 1])
    assert said.startswith(SAID + "attention 'eager' does not take")
    assert "`options: {model: {attn_implementation: sdpa}}` on policy_backbone" in said


@pytest.mark.parametrize(("attention", "owners"), [("sdpa", [0, 0, 1, 1]), ("eager", [0, 1])])
def test_nothing_is_said_where_completions_are_packed_or_share_no_prompt(world, caplog, attention, owners):
    assert scored_said(world, with_attention(world, attention), caplog, owners) == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("qwen2_vl", "along three axes"),
        ("qwen3_vl", "along three axes"),
        ("paligemma", "tokens of the prompt see each other in both directions"),
        ("gemma3", "tokens of an image see each other in both directions"),
    ],
)
def test_a_kind_that_is_never_packed_says_why(world, kind, words):
    """Whatever its attention is: the pocket model's would do."""
    assert words in KINDS[kind].unpacked_reason(world.policy(LORA).backbone)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("sliding_window", 64, "a window of 64 tokens"),
        ("rope_parameters", {"mrope_section": [1, 1, 2]}, "along several axes"),
        ("_attn_implementation", "flash_attention_2", "'flash_attention_2' does not take a mask.*sdpa"),
    ],
)
def test_a_configuration_that_is_not_packed_says_why(world, monkeypatch, name, value, words):
    model = world.policy(LORA).backbone
    kind = KINDS["llava"]
    assert kind.unpacked_reason(model) is None
    monkeypatch.setattr(
        model.config, "get_text_config", lambda: SimpleNamespace(**{"_attn_implementation": "sdpa", name: value})
    )
    assert re.search(words, kind.unpacked_reason(model))
