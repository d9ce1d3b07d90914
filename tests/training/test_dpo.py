"""A round of DPO: which pairs, which gradient, and what it says when there is none."""

import logging
import math

import pytest
import torch
from tests.pocket_models import stir
from tests.training.toy_rounds import STEPS, TEMPERATURE, gradient, round_data, scored

from fisao_pipeline.params.policy_training import DPOParams
from fisao_pipeline.training.dpo import DPOLearner, preference_pairs
from fisao_pipeline.training.ranking import summed_rewards

REWARDS = [1.0, 0.0, -1.0, 2.0, 0.5, 0.5, 0.0, 0.25]
PAIRS = [(0, 1), (3, 2), (7, 6)]


def params(**changes) -> DPOParams:
    values = {"beta": 0.1, "ranked_by": "rewards", "pairs_per_prompt": 1, "min_gap": 0.0, "length_normalised": False}
    return DPOParams(**{**values, **STEPS, **changes})


def learner(world, policy, rounds=1, **changes) -> DPOLearner:
    made = DPOLearner(policy, world.open_image, TEMPERATURE, params(**changes), rounds, summed_rewards)
    made.optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=made.params.learning_rate)
    return made


def learn(world, policy, rewards=REWARDS, **changes):
    """The round's numbers and those of each step."""
    steps: list[dict[str, float]] = []
    row = learner(world, policy, **changes).learn(round_data(world, policy, rewards), steps.append)
    return row, steps


def test_pairs_are_of_one_prompt_and_ties_are_none(world):
    data = round_data(world, world.policy(), REWARDS)
    assert preference_pairs(data.rollouts, summed_rewards(data), params()) == PAIRS
    assert preference_pairs(data.rollouts, summed_rewards(data), params(min_gap=0.25)) == PAIRS[:2]


def test_the_first_step_starts_from_the_reference(world):
    row, (step,) = learn(world, world.policy())
    assert step["dpo_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert step["reward_margin"] == pytest.approx(0, abs=1e-5)
    assert row["kl"] == pytest.approx(0, abs=1e-5)
    assert (row["pairs"], row["updates"], row["learning_rate"]) == (3, 1, 1e-3)
    assert row["token_reward"] == pytest.approx(sum(REWARDS) / 8)
    assert row["logprob_gap"] < 1e-4


@pytest.mark.parametrize("length_normalised", [False, True])
def test_the_gradient_is_that_of_the_loss_over_whole_responses(world, length_normalised):
    """Computed here from unpacked prompts, in one piece and by the sigmoid; against a moved adapter's reference."""
    policy = stir(world.policy())
    rollouts = round_data(world, policy, REWARDS).rollouts
    lengths = rollouts.completion_mask.sum(dim=1) if length_normalised else 1
    with torch.no_grad():
        ref = scored(world, policy, rollouts, reference=True).sum(dim=1) / lengths
    shift = scored(world, policy, rollouts).sum(dim=1) / lengths - ref
    assert shift.abs().max() > 1e-2, "a moved adapter differs from its base"
    margins = torch.stack([0.1 * (shift[better] - shift[worse]) for better, worse in PAIRS])
    loss = -torch.sigmoid(margins).log().mean()
    expected = torch.autograd.grad(loss, policy.trainable_parameters())
    _, (step,) = learn(world, policy, length_normalised=length_normalised)
    assert step["dpo_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert step["reward_margin"] == pytest.approx(margins.mean().item(), abs=1e-5)
    assert step["accuracy"] == pytest.approx((margins > 0).float().mean().item())
    for got, wanted in zip(gradient(policy), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-3)


def test_micro_batches_change_neither_gradient_nor_step(world):
    results = []
    for size in (4, 1, 2):
        policy = stir(world.policy())
        _, (step,) = learn(world, policy, micro_batch_size=size)
        results.append((step, gradient(policy)))
    whole, expected = results[0]
    assert max(g.abs().max() for g in expected) > 1e-4
    for step, got in results[1:]:
        assert step == pytest.approx(whole, rel=1e-3, abs=1e-5)
        for g, wanted in zip(got, expected, strict=True):
            torch.testing.assert_close(g, wanted, atol=1e-6, rtol=1e-3)


def test_steps_make_the_preferred_more_probable_than_its_rival(world):
    _, steps = learn(world, world.policy(), epochs=8, learning_rate=0.5)
    assert len(steps) == 8
    assert steps[-1]["reward_margin"] > steps[1]["reward_margin"] > 0
    assert steps[-1]["accuracy"] == 1
    assert steps[-1]["dpo_loss"] < steps[0]["dpo_loss"] - 1e-3


def test_every_pair_is_seen_once_an_epoch(world):
    row, steps = learn(world, world.policy(), epochs=2, batch_size=2, micro_batch_size=2)
    assert row["updates"] == len(steps) == 4
    assert row["dpo_loss"] == pytest.approx(sum(step["dpo_loss"] for step in steps) / 4)


def test_a_step_forgets_the_gradient_of_the_one_before(world):
    """The policy hardly moves: the same pairs have the same gradient in both epochs."""
    _, (first, second) = learn(world, world.policy(), epochs=2, learning_rate=1e-9)
    assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-3)


def test_a_round_without_a_pair_says_so_and_moves_nothing(world, caplog):
    policy = stir(world.policy())
    before = [p.detach().clone() for p in policy.trainable_parameters()]
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        row, steps = learn(world, policy, rewards=[0.5] * 8, min_gap=0.25)
    assert "Round 0 has no pair of responses to a prompt that differ by more than 0.25" in caplog.text
    assert "policy_training.dpo.min_gap" in caplog.text
    assert steps == [] and row["pairs"] == row["updates"] == 0
    assert "dpo_loss" not in row and row["kl_k3"] > 0
    assert all(torch.equal(p, b) for p, b in zip(policy.trainable_parameters(), before, strict=True))


def test_the_learning_rate_falls_over_the_rounds(world):
    policy = world.policy()
    made = learner(world, policy, rounds=3)
    rates = [made.learn(round_data(world, policy, REWARDS, i), lambda _: None)["learning_rate"] for i in range(3)]
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4])
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(5e-4)


def test_a_gradient_that_is_no_number_names_its_own_setting(world):
    policy = world.policy()
    data = round_data(world, policy, REWARDS)
    policy.trainable_parameters()[0].data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"policy_training\.dpo\.learning_rate"):
        learner(world, policy).learn(data, lambda _: None)
