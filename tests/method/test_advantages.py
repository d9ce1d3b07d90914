from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.method.batches import Batch, assert_matches, assert_refuses_odd_shapes, batches, few
from tests.references import method_float64 as reference

from fisao_pipeline.method.advantages import (
    batch_baseline,
    charge_unlikely,
    gae,
    group_baseline,
    normalise_advantages,
    penalised_rewards,
    returns_to_go,
)

DISCOUNTS = st.sampled_from([0.0, 0.3, 0.95, 1.0])
# Two completions, of three tokens and of one.
REWARDS = torch.tensor([[1.0, 0.0, 2.0], [4.0, 9.0, 9.0]])
VALUES = torch.tensor([[0.5, 1.0, 2.0], [3.0, 9.0, 9.0]])
MASK = torch.tensor([[True, True, True], [True, False, False]])


def exactly(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


class TestPenalisedRewards:
    def test_by_hand(self) -> None:
        answer = penalised_rewards(
            torch.tensor([[1.0, 0.0, 5.0]]),
            torch.tensor([[-1.0, -2.0, 0.0]]),
            torch.tensor([[-1.5, -1.0, 0.0]]),
            torch.tensor([[True, True, False]]),
            kl_coef=0.1,
        )
        # More probable than under the reference costs, less probable pays.
        assert_matches(answer, [[1.0 - 0.05, 0.1, 0.0]])

    @given(batch=batches(), kl_coef=st.floats(0, 2))
    @few
    def test_reference_garbage_and_order(self, batch: Batch, kl_coef: float) -> None:
        arguments = [batch.normal(), batch.normal(), batch.normal()]
        answer = penalised_rewards(*arguments, batch.mask, kl_coef)
        expected = [
            [r - kl_coef * (old - ref) if counts else 0.0 for r, old, ref, counts in zip(*rows, strict=True)]
            for rows in zip(*(x.tolist() for x in [*arguments, batch.mask]), strict=True)
        ]
        assert_matches(answer, expected)
        exactly(penalised_rewards(*map(batch.soiled, arguments), batch.mask, kl_coef), answer)
        order = batch.order()
        exactly(penalised_rewards(*(x[order] for x in arguments), batch.mask[order], kl_coef), answer[order])

    def test_without_a_coefficient_the_rewards_stay(self) -> None:
        exactly(penalised_rewards(REWARDS, VALUES, -VALUES, MASK, 0.0), REWARDS * MASK)


class TestChargeUnlikely:
    def test_by_hand(self) -> None:
        rewards = torch.tensor([[1.0, 0.0, 5.0, -1.0]])
        # e^-6 is 0.0025, e^-7 is 0.0009; the third token is padding.
        ref = torch.tensor([[-6.0, -7.0, -9.0, -7.0]])
        mask = torch.tensor([[True, True, False, True]])
        assert_matches(charge_unlikely(rewards, ref, mask, floor=0.001, cost=0.75), [[1.0, -0.75, 0.0, -1.75]])

    def test_a_token_just_as_likely_as_the_floor_is_free(self) -> None:
        ref = torch.tensor([[0.5, 0.25]], dtype=torch.float64).log()
        exactly(charge_unlikely(torch.zeros(1, 2), ref, torch.ones(1, 2).bool(), 0.5, 2.0), torch.tensor([[0.0, -2.0]]))

    @given(batch=batches(), floor=st.floats(0.01, 0.99), cost=st.floats(0, 3))
    @few
    def test_reference_garbage_and_order(self, batch: Batch, floor: float, cost: float) -> None:
        rewards, ref = batch.normal(), -batch.normal().abs()
        answer = charge_unlikely(rewards, ref, batch.mask, floor, cost)
        expected = reference.unlikely_charged(rewards.tolist(), ref.tolist(), batch.mask.tolist(), floor, cost)
        assert_matches(answer, expected)
        exactly(charge_unlikely(batch.soiled(rewards), batch.soiled(ref), batch.mask, floor, cost), answer)
        order = batch.order()
        exactly(charge_unlikely(rewards[order], ref[order], batch.mask[order], floor, cost), answer[order])
        exactly(charge_unlikely(rewards, ref, batch.mask, floor, 0.0), torch.where(batch.mask, rewards, 0.0))

    @pytest.mark.parametrize(
        ("floor", "cost", "named"), [(0.0, 1.0, "floor"), (1.0, 1.0, "floor"), (0.1, -1.0, "cost")]
    )
    def test_refuses(self, floor: float, cost: float, named: str) -> None:
        with pytest.raises(ValueError, match=f"{named} must be"):
            charge_unlikely(REWARDS, -REWARDS, MASK, floor, cost)


class TestReturnsToGo:
    def test_by_hand(self) -> None:
        assert_matches(returns_to_go(REWARDS, MASK, 0.5), [[1.5, 1.0, 2.0], [4.0, 0.0, 0.0]])

    @given(batch=batches(), gamma=DISCOUNTS)
    @few
    def test_reference_garbage_and_order(self, batch: Batch, gamma: float) -> None:
        rewards, order = batch.normal(), batch.order()
        answer = returns_to_go(rewards, batch.mask, gamma)
        assert_matches(answer, reference.returns_to_go(rewards.tolist(), batch.mask.tolist(), gamma))
        exactly(returns_to_go(batch.soiled(rewards), batch.mask, gamma), answer)
        exactly(returns_to_go(rewards[order], batch.mask[order], gamma), answer[order])


class TestGae:
    def test_by_hand(self) -> None:
        # δ = 1 + ½·1 − ½, 0 + ½·2 − 1, 2 − 2; γλ = ¼.
        advantages, returns = gae(REWARDS, VALUES, MASK, gamma=0.5, gae_lambda=0.5)
        assert_matches(advantages, [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        assert_matches(returns, [[1.5, 1.0, 2.0], [4.0, 0.0, 0.0]])
        advantages, _ = gae(torch.tensor([[0.0, 0.0, 8.0]]), torch.zeros(1, 3), MASK[:1], gamma=0.5, gae_lambda=0.5)
        assert_matches(advantages, [[0.5, 2.0, 8.0]])

    @given(batch=batches(), gamma=DISCOUNTS, gae_lambda=DISCOUNTS)
    @few
    def test_reference_garbage_and_order(self, batch: Batch, gamma: float, gae_lambda: float) -> None:
        rewards, values, order = batch.normal(), batch.normal(), batch.order()
        answer = gae(rewards, values, batch.mask, gamma, gae_lambda)
        expected = reference.gae(rewards.tolist(), values.tolist(), batch.mask.tolist(), gamma, gae_lambda)
        assert_matches(answer[0], expected, atol=1e-5)
        exactly(answer[1], torch.where(batch.mask, answer[0] + values, 0.0))
        soiled = gae(batch.soiled(rewards), batch.soiled(values), batch.mask, gamma, gae_lambda)
        reordered = gae(rewards[order], values[order], batch.mask[order], gamma, gae_lambda)
        for part in (0, 1):
            exactly(soiled[part], answer[part])
            exactly(reordered[part], answer[part][order])

    @given(batch=batches(), gamma=DISCOUNTS)
    @few
    def test_lambda_zero_is_one_step_temporal_difference(self, batch: Batch, gamma: float) -> None:
        rewards, values = batch.normal(), torch.where(batch.mask, batch.normal(), 0.0)
        following = torch.cat([values[:, 1:], torch.zeros(len(values), 1)], dim=1)
        advantages, _ = gae(rewards, values, batch.mask, gamma, 0.0)
        expected = torch.where(batch.mask, rewards + gamma * following - values, 0.0)
        torch.testing.assert_close(advantages, expected, rtol=1e-5, atol=1e-6)

    @given(batch=batches(), gamma=DISCOUNTS)
    @few
    def test_lambda_one_is_return_to_go_minus_value(self, batch: Batch, gamma: float) -> None:
        rewards, values = batch.normal(), batch.normal()
        advantages, returns = gae(rewards, values, batch.mask, gamma, 1.0)
        to_go = returns_to_go(rewards, batch.mask, gamma)
        torch.testing.assert_close(advantages, torch.where(batch.mask, to_go - values, 0.0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(returns, to_go, rtol=1e-5, atol=1e-5)

    def test_its_arguments_are_left_alone(self) -> None:
        rewards, values = REWARDS.clone(), VALUES.clone()
        gae(rewards, values, MASK, 0.9, 0.9)
        exactly(rewards, REWARDS)
        exactly(values, VALUES)


class TestBatchBaseline:
    def test_is_the_mean_over_tokens_not_over_responses(self) -> None:
        returns = returns_to_go(REWARDS, MASK, 1.0)  # 3, 2, 2 and 4
        assert_matches(batch_baseline(returns, MASK), [[2.75] * 3] * 2)  # of the responses' means it would be 19/6

    @given(batch=batches())
    @few
    def test_reference_and_garbage(self, batch: Batch) -> None:
        returns = batch.normal()
        answer = batch_baseline(batch.soiled(returns), batch.mask)
        assert answer.shape == returns.shape
        mean = reference.masked_mean(returns.tolist(), batch.mask.tolist())
        assert_matches(answer, [[mean] * returns.shape[1]] * returns.shape[0])


class TestGroupBaseline:
    def test_by_hand(self) -> None:
        returns = torch.tensor([[1.0, 2.0], [3.0, 0.0], [5.0, 10.0], [10.0, 0.0], [20.0, 0.0], [30.0, 3.0]])
        expected = [[4.0, 5.0], [3.0, 6.0], [2.0, 1.0], [25.0, 1.5], [20.0, 1.5], [15.0, 0.0]]
        assert_matches(group_baseline(returns, 3), expected)

    @pytest.mark.parametrize("group_size", [2, 3])
    @given(data=st.data())
    @few
    def test_reference_and_order(self, group_size: int, data: st.DataObject) -> None:
        batch = data.draw(batches(row_step=group_size))
        returns = torch.where(batch.mask, batch.normal(), 0.0)
        answer = group_baseline(returns, group_size)
        assert_matches(answer, reference.group_baseline(returns.tolist(), group_size))
        # Whole groups may change places, and responses within a group.
        rows = torch.arange(len(returns)).view(-1, group_size).flip(0, 1).flatten()
        torch.testing.assert_close(group_baseline(returns[rows], group_size), answer[rows], rtol=1e-5, atol=1e-6)

    @given(batch=batches(row_step=3))
    @few
    def test_no_token_is_compared_with_its_own_response_or_another_group(self, batch: Batch) -> None:
        returns = batch.normal()
        jacobian = torch.autograd.functional.jacobian(lambda x: group_baseline(x, 3), returns)
        rows, columns = returns.shape
        for row in range(rows):
            for column in range(columns):
                expected = torch.zeros(rows, columns)
                group = row // 3 * 3
                expected[group : group + 3, column] = 0.5
                expected[row, column] = 0.0
                exactly(jacobian[row, column], expected)

    def test_refuses_groups_of_one_and_broken_groups(self) -> None:
        with pytest.raises(ValueError, match=r"got 1; raise responses_per_prompt"):
            group_baseline(torch.zeros(2, 3), 1)
        with pytest.raises(ValueError, match="5 responses are no whole number of groups of 2"):
            group_baseline(torch.zeros(5, 3), 2)


class TestNormaliseAdvantages:
    def test_by_hand(self) -> None:
        advantages = torch.tensor([[1.0, 3.0], [5.0, 100.0]])
        mask = torch.tensor([[True, True], [True, False]])
        spread = (8 / 3) ** 0.5  # of the population; of a sample it would be 2
        assert_matches(normalise_advantages(advantages, mask), [[-2 / spread, 0.0], [2 / spread, 0.0]])
        uncentred = normalise_advantages(advantages, mask, shift_mean=False)
        assert_matches(uncentred, [[1 / spread, 3 / spread], [5 / spread, 0.0]])

    @pytest.mark.parametrize("shift_mean", [True, False])
    @given(batch=batches())
    @few
    def test_reference_garbage_and_order(self, shift_mean: bool, batch: Batch) -> None:
        advantages, order = batch.normal() + 1, batch.order()
        answer = normalise_advantages(advantages, batch.mask, shift_mean)
        exactly(normalise_advantages(batch.soiled(advantages), batch.mask, shift_mean), answer)
        assert (answer[~batch.mask] == 0).all()
        reordered = normalise_advantages(advantages[order], batch.mask[order], shift_mean)
        torch.testing.assert_close(reordered, answer[order], rtol=1e-4, atol=1e-5)
        mean = reference.masked_mean(advantages.tolist(), batch.mask.tolist())
        spread = reference.masked_std(advantages.tolist(), batch.mask.tolist())
        if batch.mask.sum() > 1:
            expected = [
                [(x - mean * shift_mean) / spread if counts else 0.0 for x, counts in zip(*rows, strict=True)]
                for rows in zip(advantages.tolist(), batch.mask.tolist(), strict=True)
            ]
            # Rounding of the mean, divided by a spread that may be small.
            assert_matches(answer, expected, atol=1e-5 + 1e-6 / spread)

    @given(value=st.floats(-1e3, 1e3, width=32), length=st.integers(1, 400))
    @few
    def test_equal_advantages_teach_nothing(self, value: float, length: int) -> None:
        # 0.1 is such a number: the mean of 7 of them is off by one rounding, which must not become an advantage of 1.
        for number in (value, 0.1):
            advantages, mask = torch.full((3, length), number), torch.ones(3, length, dtype=torch.bool)
            mask[0, 1:] = False
            exactly(normalise_advantages(advantages, mask), torch.zeros(3, length))
            exactly(normalise_advantages(advantages, mask, shift_mean=False), torch.where(mask, advantages, 0.0))

    def test_a_small_spread_is_still_a_spread(self) -> None:
        advantages = torch.tensor([[1e-6, -1e-6, 1e-6, -1e-6]])
        assert_matches(normalise_advantages(advantages, torch.ones(1, 4, dtype=torch.bool)), [[1.0, -1.0, 1.0, -1.0]])

    def test_refuses_an_empty_mask(self) -> None:
        with pytest.raises(ValueError, match="counts no element"):
            normalise_advantages(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize(
    ("function", "tensors", "settings"),
    [
        (penalised_rewards, ["token_rewards", "old_logprobs", "ref_logprobs", "completion_mask"], {"kl_coef": 0.1}),
        (charge_unlikely, ["rewards", "ref_logprobs", "completion_mask"], {"floor": 0.1, "cost": 1.0}),
        (returns_to_go, ["rewards", "completion_mask"], {"gamma": 1.0}),
        (gae, ["rewards", "values", "completion_mask"], {"gamma": 1.0, "gae_lambda": 1.0}),
    ],
)
def test_refuses_shapes_that_would_be_broadcast(function, tensors: list[str], settings: dict[str, float]) -> None:
    assert_refuses_odd_shapes(function, tensors, **settings)


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("function", [batch_baseline, normalise_advantages])
def test_refuses_a_mask_that_would_be_broadcast(function) -> None:
    with pytest.raises(ValueError, match=r"^masked_mean: .*values \(2, 3\), mask \(1, 3\)$"):
        function(torch.ones(2, 3), torch.ones(1, 3, dtype=torch.bool))
