"""A round of rejection sampling: which responses, which gradient, and what it says when none is the best."""

import logging

import pytest
import torch
from tests.pocket_models import stir
from tests.training.toy_rounds import STEPS, TEMPERATURE, gradient, round_data, scored

from fisao_pipeline.params.policy_training import RejectionSamplingParams
from fisao_pipeline.training.ranking import summed_rewards
from fisao_pipeline.training.rejection_sampling import RejectionSamplingLearner, best_rows

REWARDS = [1.0, 0.0, -1.0, 2.0, 0.5, 0.5, 0.0, 0.25]
BEST = [0, 3, 7]  # of the third prompt neither


def learn(world, policy, rewards=REWARDS, **changes):
    """The round's numbers and those of each step."""
    params = RejectionSamplingParams(**{"min_gap": 0.0, **STEPS, **changes})
    made = RejectionSamplingLearner(policy, world.open_image, TEMPERATURE, params, 1, summed_rewards)
    made.optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=params.learning_rate)
    steps: list[dict[str, float]] = []
    return made.learn(round_data(world, policy, rewards), steps.append), steps


def test_the_best_of_each_prompt_unless_all_tie(world):
    data = round_data(world, world.policy(), REWARDS)
    for min_gap, rows in ((0.0, BEST), (0.25, BEST[:2])):
        params = RejectionSamplingParams(min_gap=min_gap, **STEPS)
        assert best_rows(data.rollouts, summed_rewards(data), params) == rows


def test_the_gradient_is_that_of_the_mean_over_the_tokens_of_the_best(world):
    policy = stir(world.policy())
    rollouts = round_data(world, policy, REWARDS).rollouts.rows(BEST)
    loss = -scored(world, policy, rollouts).sum() / rollouts.completion_mask.sum()
    expected = torch.autograd.grad(loss, policy.trainable_parameters())
    row, (step,) = learn(world, policy)
    assert row["sft_loss"] == step["sft_loss"] == pytest.approx(loss.item(), rel=1e-4)
    for got, wanted in zip(gradient(policy), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-3)
    assert (row["chosen"], row["updates"]) == (3, 1)
    assert row["token_reward"] == pytest.approx(sum(REWARDS) / 8), "of all responses, not of the best"
    assert row["kl_k3"] > 0


def test_micro_batches_change_neither_gradient_nor_step(world):
    """Responses of different lengths: each token weighs the same."""
    results = []
    for size in (4, 1, 2):
        policy = stir(world.policy())
        _, (step,) = learn(world, policy, micro_batch_size=size)
        results.append((step, gradient(policy)))
    whole, expected = results[0]
    for step, got in results[1:]:
        assert step == pytest.approx(whole, rel=1e-4)
        for g, wanted in zip(got, expected, strict=True):
            torch.testing.assert_close(g, wanted, atol=1e-5, rtol=1e-3)


def test_steps_make_the_best_more_probable(world):
    _, steps = learn(world, world.policy(), epochs=8, learning_rate=0.5)
    assert len(steps) == 8
    assert steps[-1]["sft_loss"] < steps[0]["sft_loss"] - 1e-2


def test_a_round_of_ties_says_so_and_moves_nothing(world, caplog):
    policy = stir(world.policy())
    before = [p.detach().clone() for p in policy.trainable_parameters()]
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        row, steps = learn(world, policy, rewards=[0.5] * 8)
    assert "Round 0 has no prompt whose best response beats its worst" in caplog.text
    assert "policy_training.rejection_sampling.min_gap" in caplog.text
    assert steps == [] and row["chosen"] == row["updates"] == 0
    assert all(torch.equal(p, b) for p, b in zip(policy.trainable_parameters(), before, strict=True))
