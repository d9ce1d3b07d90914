"""One PPO round: where it starts, what a step is, and what must never move."""

import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tests.pocket_models import LORA, PocketWorld, favour, stir

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.params.policy_training import PPOParams
from fisao_pipeline.training import ppo as ppo_module
from fisao_pipeline.training.learning import RoundData, adapter_optimizer, anneal
from fisao_pipeline.training.ppo import ppo_round, rollout_numbers, score_rollouts
from fisao_pipeline.training.rollouts import RolloutBatch

TEMPERATURE = 0.9
GROUP = 2
PARAMS = PPOParams(
    advantage="batch",
    gamma=0.5,
    gae_lambda=0.95,
    normalise_advantages=True,
    clip_range=0.2,
    value_clip_range=None,
    vf_coef=0.5,
    value_width=None,
    value_learning_rate=None,
    kl_penalty="reward",
    kl_coef=0.1,
    kl_target_nats=None,
    unlikely_below=0.001,
    unlikely_cost=0.0,
    max_round_kl_nats=None,
    learning_rate=1e-3,
    anneal_to=1.0,
    weight_decay=0.0,
    max_grad_norm=1000.0,
    epochs=1,
    batch_size=8,
    micro_batch_size=8,
    logprob_tolerance=0.01,
)


def params(**changes) -> PPOParams:
    return PPOParams(**{**PARAMS.model_dump(), **changes})


@pytest.fixture
def policy(world) -> Policy:
    return stir(world.policy())


def roll_out(world: PocketWorld, policy: Policy, seed: int = 0, group: int = GROUP) -> RolloutBatch:
    """Eight sampled completions, so many of each prompt, of different lengths; every third token pays."""
    prompts = world.prompts.head(8 // group)
    batch = policy.encode(prompts["prompt"].tolist(), prompts["image_id"].tolist(), world.open_image)
    torch.manual_seed(seed)
    ends = favour(Policy(policy.model, policy.processor), policy.tokenizer.eos_token_id, 0.0)
    drawn = ends.sample(batch, Decoding(TEMPERATURE, 8), group)
    lengths = torch.tensor([8, 3, 5, 8, 1, 6, 7, 2]).clamp(max=drawn.mask.sum(dim=1))
    mask = torch.arange(drawn.ids.shape[1]) < lengths[:, None]
    rewards = torch.where(mask & (drawn.ids % 3 == 0), 1.0, 0.0)
    return RolloutBatch(
        [p for p in prompts["prompt"] for _ in range(group)],
        [i for i in prompts["image_id"] for _ in range(group)],
        torch.where(mask, drawn.ids, 0),
        mask,
        torch.where(mask, drawn.logprobs, 0.0),
        rewards,
    )


def scored_by(world, policy, rollouts, ppo=PARAMS):
    return score_rollouts(policy, rollouts, world.open_image, TEMPERATURE, ppo, ppo.kl_coef)


def one_round(world, policy, scored, ppo=PARAMS, optimizer=None, seed=0):
    optimizer = optimizer or torch.optim.SGD(policy.trainable_parameters(), lr=ppo.learning_rate)
    return ppo_round(policy, optimizer, scored, world.open_image, TEMPERATURE, ppo, seed)


# --- before the first step -----------------------------------------------------------------------------------------


def test_before_the_first_step_the_ratio_is_one_and_the_kl_is_zero(world):
    policy = world.policy()
    scored = scored_by(world, policy, roll_out(world, policy))
    assert torch.equal(scored.old_logprobs, scored.ref_logprobs)
    numbers = rollout_numbers(scored)
    assert numbers["kl"] == numbers["kl_k3"] == numbers["kl_penalty"] == 0
    step = one_round(world, policy, scored)
    assert step["ratio_mean"] == pytest.approx(1, abs=1e-6)
    assert step["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert step["clip_fraction"] == 0


def test_old_logprobs_are_the_samplers(world, policy):
    rollouts = roll_out(world, policy)
    scored = scored_by(world, policy, rollouts)
    torch.testing.assert_close(scored.old_logprobs, rollouts.sampled_logprobs, atol=1e-4, rtol=0)
    assert (scored.old_logprobs - scored.ref_logprobs).abs().max() > 1e-3, "a trained adapter differs from its base"
    assert rollout_numbers(scored)["logprob_gap"] < 1e-4


@pytest.mark.parametrize("advantage", ["batch", "group", "gae"])
def test_scoring_does_not_depend_on_the_micro_batch(world, policy, advantage):
    if advantage == "gae":
        policy.add_value_head()
        torch.manual_seed(0)
        torch.nn.init.normal_(policy.value_head.linear.weight, std=0.1)
    rollouts = roll_out(world, policy)
    whole = scored_by(world, policy, rollouts, params(advantage=advantage))
    split = scored_by(world, policy, rollouts, params(advantage=advantage, micro_batch_size=2))
    for name in ("old_logprobs", "ref_logprobs", "old_values", "advantages", "returns"):
        torch.testing.assert_close(getattr(split, name), getattr(whole, name), atol=1e-4, rtol=1e-4, msg=name)
        assert (getattr(whole, name)[~rollouts.completion_mask] == 0).all(), name


def test_tokens_that_the_reference_would_hardly_say_are_fined(world, policy):
    rollouts = roll_out(world, policy)
    mask = rollouts.completion_mask
    free = scored_by(world, policy, rollouts, params(normalise_advantages=False, gamma=0.0))
    floor = float(free.ref_logprobs[mask].median().exp())
    fined = scored_by(
        world, policy, rollouts, params(normalise_advantages=False, gamma=0.0, unlikely_below=floor, unlikely_cost=0.3)
    )
    below = mask & (free.ref_logprobs < free.ref_logprobs[mask].median())
    assert 0 < below.sum() < mask.sum()
    torch.testing.assert_close(fined.returns, free.returns - 0.3 * below)


def test_the_kl_is_taken_off_the_reward(world, policy):
    rollouts = roll_out(world, policy)
    mask = rollouts.completion_mask
    ppo = params(normalise_advantages=False, gamma=0.0, kl_coef=0.7)
    scored = scored_by(world, policy, rollouts, ppo)
    expected = rollouts.token_rewards - 0.7 * (scored.old_logprobs - scored.ref_logprobs)
    torch.testing.assert_close(scored.returns, torch.where(mask, expected, 0.0))
    torch.testing.assert_close(scored.advantages[mask], (expected - expected[mask].mean())[mask])


def test_as_a_loss_the_kl_leaves_the_reward_alone(world, policy):
    rollouts = roll_out(world, policy)
    ppo = params(normalise_advantages=False, gamma=0.0, kl_coef=0.7, kl_penalty="loss")
    scored = scored_by(world, policy, rollouts, ppo)
    torch.testing.assert_close(scored.returns, rollouts.token_rewards)
    numbers, charged = rollout_numbers(scored), rollout_numbers(scored_by(world, policy, rollouts, params()))
    assert numbers["kl_penalty"] == 0
    assert charged["kl_penalty"] == pytest.approx(0.1 * charged["kl"])
    assert (numbers["kl"], numbers["kl_k3"]) == (charged["kl"], charged["kl_k3"]), "reported whatever is optimised"
    assert numbers["kl_k3"] > 1e-3


def test_a_sampler_that_disagrees_is_reported(world, policy, caplog):
    rollouts = roll_out(world, policy)
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        scored_by(world, policy, rollouts)
    assert not caplog.text
    tampered = replace(rollouts, sampled_logprobs=rollouts.sampled_logprobs + 0.05 * rollouts.completion_mask)
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        scored = scored_by(world, policy, tampered)
    assert "differ from the trainer's by up to 0.0500 nats (tolerance 0.0100)" in caplog.text
    assert rollout_numbers(scored)["logprob_gap"] == pytest.approx(0.05, abs=1e-3)


def test_responses_of_another_policy_are_refused(world, policy):
    """One odd token is not enough, a mean of more than one nat is."""
    rollouts = roll_out(world, policy)
    gap = 1.1 * rollouts.completion_mask
    with pytest.raises(ValueError, match=r"by 1\.10 nats in the mean.*--pipelines=response_sampling,"):
        scored_by(world, policy, replace(rollouts, sampled_logprobs=rollouts.sampled_logprobs - gap))
    gap[:, 1:] = 0
    scored_by(world, policy, replace(rollouts, sampled_logprobs=rollouts.sampled_logprobs - gap))


# --- a step --------------------------------------------------------------------------------------------------------


def gradient_and_weights(world, micro, advantage="batch", kl_penalty="reward"):
    policy = stir(world.policy())
    if advantage == "gae":
        policy.add_value_head()
    scored = scored_by(world, policy, roll_out(world, policy), params(advantage=advantage))
    # Old logprobs that are not the present ones: clipping and the ratio take part.
    moved = scored.old_logprobs + 0.15 * torch.sin(torch.arange(scored.old_logprobs.numel())).view_as(
        scored.old_logprobs
    )
    scored = replace(scored, old_logprobs=torch.where(scored.rollouts.completion_mask, moved, 0.0))
    scored = replace(scored, loss_kl_coef=0.5 if kl_penalty == "loss" else 0.0)
    ppo = params(advantage=advantage, micro_batch_size=micro, learning_rate=0.5)
    step = one_round(world, policy, scored, ppo)
    parameters = policy.trainable_parameters()
    return step, [p.grad.clone() for p in parameters], [p.detach().clone() for p in parameters]


@pytest.mark.parametrize(("advantage", "kl_penalty"), [("batch", "reward"), ("gae", "reward"), ("batch", "loss")])
def test_micro_batches_change_neither_gradient_nor_step(world, advantage, kl_penalty):
    whole_step, whole_gradient, whole_weights = gradient_and_weights(world, 8, advantage, kl_penalty)
    assert (whole_step["kl_loss"] > 0) == (kl_penalty == "loss")
    assert max(g.abs().max() for g in whole_gradient) > 1e-3
    for micro in (1, 4):
        step, gradient, weights = gradient_and_weights(world, micro, advantage, kl_penalty)
        for got, expected in zip([*gradient, *weights], [*whole_gradient, *whole_weights], strict=True):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
        for name, value in whole_step.items():
            assert step[name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.parametrize("advantage", ["gae", "group"])
def test_a_group_that_is_cut_has_the_gradient_of_the_whole(world, monkeypatch, advantage):
    """Four responses of each of two prompts, by one, two, four (a group) and eight at a time."""
    gradients, passes = {}, {}
    for micro in (1, 2, 4, 8):
        policy = stir(world.policy())
        if advantage == "gae":
            policy.add_value_head()
        rollouts = roll_out(world, policy, group=4)
        ppo = params(advantage=advantage, micro_batch_size=micro)
        # Per-token numbers are those of one scoring.
        scored = score_rollouts(policy, rollouts, world.open_image, TEMPERATURE, params(advantage=advantage), 0.1)
        counted: list[int] = []
        real = ppo_module._micro_batch_loss
        with monkeypatch.context() as patch:
            patch.setattr(ppo_module, "_micro_batch_loss", lambda *a, r=real, c=counted: c.append(len(a[2])) or r(*a))
            one_round(world, policy, scored, ppo)
        gradients[micro] = [p.grad.clone() for p in policy.trainable_parameters()]
        passes[micro] = counted
    assert passes == {1: [1] * 8, 2: [2] * 4, 4: [4] * 2, 8: [8]}
    largest = max(float(g.abs().max()) for g in gradients[8])
    assert largest > 1e-3
    for micro in (1, 2, 4):
        for got, whole in zip(gradients[micro], gradients[8], strict=True):
            torch.testing.assert_close(got, whole, atol=1e-6 * max(1.0, largest), rtol=1e-6)


def test_what_is_behind_the_mask_has_no_gradient(world):
    """Junk tokens, advantages and logprobs off the mask change nothing."""
    gradients = []
    for junk in (False, True):
        policy = stir(world.policy())
        scored = scored_by(world, policy, roll_out(world, policy))
        if junk:
            off = ~scored.rollouts.completion_mask
            rollouts = replace(scored.rollouts, completion_ids=scored.rollouts.completion_ids.masked_fill(off, 305))
            scored = replace(
                scored,
                rollouts=rollouts,
                advantages=scored.advantages.masked_fill(off, 50.0),
                old_logprobs=scored.old_logprobs.masked_fill(off, -3.0),
            )
        one_round(world, policy, scored)
        gradients.append([p.grad.clone() for p in policy.trainable_parameters()])
    for plain, with_junk in zip(*gradients, strict=True):
        torch.testing.assert_close(with_junk, plain, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kl_penalty", ["reward", "loss"])
def test_the_first_step_follows_the_policy_gradient(world, kl_penalty):
    """At ratio 1 the gradient is −mean(A · ∇ log π), computed here without the clipped loss."""
    policy = stir(world.policy())
    scored = scored_by(world, policy, roll_out(world, policy), params(kl_coef=0.7, kl_penalty=kl_penalty))
    rollouts = scored.rollouts
    batch = policy.encode(rollouts.prompts, rollouts.image_ids, world.open_image)
    logprobs, _ = policy.score(batch, rollouts.completion_ids, rollouts.completion_mask, TEMPERATURE)
    parameters = policy.trainable_parameters()
    if kl_penalty == "loss":
        # E[d ∇ log π] is the KL's gradient; d is a constant in it.
        pull = 0.7 * (logprobs - scored.ref_logprobs).detach()
        assert pull.abs().max() > 1e-2
    else:
        pull = 0.0
    objective = (logprobs * (pull - scored.advantages)).sum() / rollouts.completion_mask.sum()
    expected = torch.autograd.grad(objective, parameters)
    one_round(world, policy, scored)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def weights_after(world, **changes):
    policy = stir(world.policy())
    ppo = params(learning_rate=0.05, epochs=2, batch_size=4, micro_batch_size=4, **changes)
    one_round(world, policy, scored_by(world, policy, roll_out(world, policy), ppo), ppo)
    return torch.cat([p.detach().flatten() for p in policy.trainable_parameters()])


def test_without_weight_both_kl_penalties_take_the_same_steps(world):
    assert torch.equal(weights_after(world, kl_coef=0.0), weights_after(world, kl_coef=0.0, kl_penalty="loss"))
    apart = [
        (weights_after(world, kl_coef=beta) - weights_after(world, kl_coef=beta, kl_penalty="loss")).norm()
        for beta in (1.0, 1e-2, 1e-4)
    ]
    assert apart[0] > 10 * apart[1] > 100 * apart[2] > 0


def test_a_step_raises_what_was_better_than_average(world, policy):
    scored = scored_by(world, policy, roll_out(world, policy))
    mask = scored.rollouts.completion_mask
    ppo = params(learning_rate=0.05)
    before = scored.old_logprobs
    one_round(world, policy, scored, ppo)
    after = scored_by(world, policy, scored.rollouts, ppo).old_logprobs
    gain = ((after - before) * scored.advantages)[mask].mean()
    assert gain > 1e-4


def test_only_the_adapter_moves(world, policy):
    policy.add_value_head()
    frozen = {n: p.detach().clone() for n, p in policy.model.named_parameters() if ".lora_" not in n}
    buffers = {n: b.clone() for n, b in policy.model.named_buffers()}
    adapter = {n: p.detach().clone() for n, p in policy.model.named_parameters() if ".lora_" in n}
    scored = scored_by(world, policy, roll_out(world, policy), params(advantage="gae"))
    ppo = params(advantage="gae", epochs=2, batch_size=4, micro_batch_size=4, weight_decay=0.1)
    optimizer = torch.optim.AdamW(policy.trainable_parameters(), lr=1e-3, weight_decay=0.1)
    one_round(world, policy, scored, ppo, optimizer)
    now = dict(policy.model.named_parameters())
    towers = ("vision_tower", "multi_modal_projector", "lm_head", "embed_tokens", "language_model")
    for tower in towers:
        assert any(tower in name for name in frozen), tower
    assert all(torch.equal(now[name], tensor) for name, tensor in frozen.items())
    assert all(torch.equal(dict(policy.model.named_buffers())[name], tensor) for name, tensor in buffers.items())
    assert all(not torch.equal(now[name], tensor) for name, tensor in adapter.items())
    assert (policy.value_head.linear.weight != 0).any()
    assert len(adapter) == 2 * 3 * len(LORA.targets)


def test_the_value_loss_leaves_the_adapter_alone(world):
    """Twice the weight of the value loss: the same gradient on the adapter, twice that on the head."""
    gradients = []
    for vf_coef in (1.0, 2.0):
        policy = stir(world.policy())
        policy.add_value_head()
        ppo = params(advantage="gae", vf_coef=vf_coef)
        one_round(world, policy, scored_by(world, policy, roll_out(world, policy), ppo), ppo)
        adapter = [p for p in policy.model.parameters() if p.requires_grad]
        gradients.append(([p.grad for p in adapter], policy.value_head.linear.weight.grad))
    (once, head), (twice, head_twice) = gradients
    for a, b in zip(once, twice, strict=True):
        assert torch.equal(a, b)
    assert head.abs().max() > 0
    torch.testing.assert_close(head_twice, 2 * head)


# --- a round -------------------------------------------------------------------------------------------------------


def test_every_response_is_seen_once_an_epoch(world, policy, monkeypatch):
    """A step takes whole groups; the two completions of a prompt share its computation."""
    scored = scored_by(world, policy, roll_out(world, policy))
    seen: list[list[int]] = []
    real = ppo_module._update

    def update(policy, optimizer, scored, groups, *rest):
        seen.append([row for group in groups for row in group])
        return real(policy, optimizer, scored, groups, *rest)

    monkeypatch.setattr(ppo_module, "_update", update)
    result = one_round(world, policy, scored, params(epochs=2, batch_size=6, micro_batch_size=2))
    assert [len(rows) for rows in seen] == [6, 2, 6, 2]
    for epoch in (seen[:2], seen[2:]):
        assert sorted(row for rows in epoch for row in rows) == list(range(8))
    assert seen[:2] != seen[2:], "another order in every epoch"
    assert result["updates"] == 4
    assert result["stopped_early"] == 0


def test_micro_batches_hold_whole_groups_where_these_fit(world, policy):
    rollouts = roll_out(world, policy)
    assert rollouts.groups == [range(0, 2), range(2, 4), range(4, 6), range(6, 8)]
    for size, count in ((1, 8), (2, 4), (4, 2), (5, 2), (8, 1)):
        parts = ppo_module.micro_batches(rollouts, rollouts.groups, size)
        assert len(parts) == count
        assert sorted(row for part in parts for row in part) == list(range(8))
        together = [[n for n, part in enumerate(parts) if set(group) & set(part)] for group in rollouts.groups]
        assert [len(numbers) for numbers in together] == [2 if size == 1 else 1] * 4
    parts = ppo_module.micro_batches(rollouts, [range(0, 5), range(5, 8)], 3)
    assert sorted(map(len, parts)) == [2, 3, 3], "five are three and two, never four and one"
    assert all(part == list(range(part[0], part[-1] + 1)) for part in parts)


def test_micro_batches_hold_groups_of_similar_length(world, policy):
    rollouts = roll_out(world, policy)
    lengths = torch.tensor([8, 7, 1, 2, 6, 8, 2, 1])
    rollouts = replace(
        rollouts,
        completion_ids=torch.full((8, 8), 300),
        completion_mask=torch.arange(8) < lengths[:, None],
        sampled_logprobs=torch.zeros(8, 8),
        token_rewards=torch.zeros(8, 8),
    )
    parts = ppo_module.micro_batches(rollouts, rollouts.groups, 4)
    assert sorted(map(sorted, parts)) == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_a_lost_response_does_not_keep_the_others_from_training(world, policy):
    """Groups differ in size where a response was empty."""
    rollouts = roll_out(world, policy).rows([0, 2, 3, 4, 5, 6, 7])
    scored = scored_by(world, policy, rollouts, params(advantage="batch"))
    assert one_round(world, policy, scored, params(batch_size=4, micro_batch_size=2))["updates"] >= 2


def test_a_round_ends_early_when_the_policy_has_moved_too_far(world, policy):
    scored = scored_by(world, policy, roll_out(world, policy))
    ppo = params(epochs=10, learning_rate=2.0, max_round_kl_nats=1e-4)
    result = one_round(world, policy, scored, ppo)
    assert result["stopped_early"] == 1
    # The first step's KL is that before it, zero, so that two steps are the least.
    assert 2 <= result["updates"] < 10
    assert one_round(world, policy, scored, params(epochs=3))["updates"] == 3


def test_a_gradient_that_is_no_number_is_refused(world, policy):
    scored = scored_by(world, policy, roll_out(world, policy))
    broken = replace(scored, advantages=torch.full_like(scored.advantages, float("nan")))
    before = [p.detach().clone() for p in policy.trainable_parameters()]
    with pytest.raises(FloatingPointError, match=r"learning_rate.*float32"):
        one_round(world, policy, broken)
    assert all(torch.equal(p, b) for p, b in zip(policy.trainable_parameters(), before, strict=True))


def test_gradients_are_clipped(world, policy):
    scored = scored_by(world, policy, roll_out(world, policy))
    one_round(world, policy, scored, params(max_grad_norm=1e-3))
    norm = torch.stack([p.grad.norm() for p in policy.trainable_parameters()]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_learning_rates_fall_linearly_the_value_heads_beside_the_adapters(world, policy):
    policy.add_value_head(width=8)
    ppo = params(learning_rate=0.1, anneal_to=0.2)
    optimizer = adapter_optimizer(policy, ppo, value_learning_rate=0.5)
    adapter, head = optimizer.param_groups
    assert (adapter["lr"], head["lr"]) == (0.1, 0.5)
    assert {id(p) for p in head["params"]} == {id(p) for p in policy.value_head.parameters()}
    assert len(adapter["params"]) + len(head["params"]) == len(policy.trainable_parameters())
    rates = [anneal(optimizer, ppo, index, 5) for index in range(5)]
    assert rates == pytest.approx([0.1, 0.08, 0.06, 0.04, 0.02])
    assert (adapter["lr"], head["lr"]) == pytest.approx((0.02, 0.1))
    assert anneal(optimizer, ppo, 0, 1) == 0.1
    same = adapter_optimizer(policy, ppo)
    assert [group["lr"] for group in same.param_groups] == [0.1, 0.1]


@pytest.mark.parametrize(("device", "fused"), [("cpu", None), ("cuda", True)])
def test_a_gpus_optimizer_is_one_kernel(device, fused):
    weights = [torch.nn.Parameter(torch.zeros(2))]
    policy = SimpleNamespace(device=torch.device(device), value_head=None, adapter_parameters=lambda: weights)
    assert adapter_optimizer(policy, params()).defaults["fused"] is fused


def test_numbers_of_a_rollout_are_per_response(world, policy):
    rollouts = roll_out(world, policy)
    scored = scored_by(world, policy, rollouts)
    numbers = rollout_numbers(scored)
    assert numbers["token_reward"] == pytest.approx(float(rollouts.token_rewards.sum() / 8), rel=1e-5)
    assert numbers["response_tokens"] == pytest.approx(float(rollouts.completion_mask.sum() / 8))
    gap = scored.old_logprobs - scored.ref_logprobs
    assert numbers["kl"] == pytest.approx(float(gap.sum() / 8), rel=1e-4)
    assert numbers["kl_k3"] >= 0


def test_equal_rewards_are_reported(world, policy, caplog):
    rollouts = roll_out(world, policy)
    ppo_module.report_equal_rewards(RoundData(3, 0, pd.DataFrame(), rollouts))
    ppo_module.report_equal_rewards(RoundData(3, 0, pd.DataFrame(), rollouts.rows([0])))
    assert not caplog.records
    equal = torch.zeros_like(rollouts.token_rewards)
    equal[:, 0] = 0.5
    ppo_module.report_equal_rewards(RoundData(3, 0, pd.DataFrame(), replace(rollouts, token_rewards=equal)))
    assert "policy_training: all 8 responses of round 3 earn the same reward (0.5)" in caplog.text


# --- rollouts of another engine ------------------------------------------------------------------------------------


def test_tokens_of_another_engine_weigh_by_how_much_likelier_they_are_to_the_policy(world, policy):
    """Each 1.5 times as likely: the gradient is 1.5 times as large, with a cap of 1.2 so many times."""
    drawn = roll_out(world, policy)
    shift = torch.where(drawn.completion_mask, math.log(1.5), 0.0)
    foreign = replace(drawn, sampled_logprobs=scored_by(world, policy, drawn).old_logprobs - shift)
    own = PARAMS.model_copy(update={"epochs": 1, "learning_rate": 1e-9})
    norm = one_round(world, policy, scored_by(world, policy, foreign, own), own)["grad_norm"]
    policy.engine = object()
    for cap, weight in ((2.0, 1.5), (1.2, 1.2)):
        capped = own.model_copy(update={"importance_cap": cap})
        scored = scored_by(world, policy, foreign, capped)
        assert one_round(world, policy, scored, capped)["grad_norm"] == pytest.approx(weight * norm, rel=1e-4)
        numbers = rollout_numbers(scored)
        assert numbers["importance_mean"] == pytest.approx(weight, rel=1e-4)
        assert numbers["importance_truncated"] == float(cap < 1.5)
        assert numbers["sampler_kl"] == pytest.approx(1.5 - 1 - math.log(1.5), rel=1e-3)


def test_another_engines_logprobs_are_no_alarm_but_another_policys_are_refused(world, policy, caplog):
    drawn = roll_out(world, policy)
    old = scored_by(world, policy, drawn).old_logprobs
    own, other = (
        replace(drawn, sampled_logprobs=old - torch.where(drawn.completion_mask, gap, 0.0)) for gap in (0.3, 1.1)
    )
    caplog.clear()
    scored_by(world, policy, own)
    assert "differ from the trainer's by up to 0.3" in caplog.text
    caplog.clear()
    policy.engine = object()
    scored_by(world, policy, own)
    assert not caplog.records
    with pytest.raises(ValueError, match=r"by 1.10 nats in the mean.*are not this policy's"):
        scored_by(world, policy, other)


def test_the_policys_own_rollouts_are_not_weighed(world, policy):
    """Not even by the rounding of the sampler: exactly as before."""
    drawn = roll_out(world, policy)
    scored = scored_by(world, policy, drawn)
    assert scored.importance_cap is None
    assert not {"importance_mean", "sampler_kl"} & set(rollout_numbers(scored))
