"""Weights of tokens that another engine drew: exact by hand and against float64, constant, unbiased below the cap."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.method.batches import Batch, assert_matches, assert_refuses_odd_shapes, batches, few
from tests.references import method_float64 as reference

from fisao_pipeline.method.importance import importance_numbers, truncated_importance_weights
from fisao_pipeline.method.losses import clipped_policy_loss

CAPS = st.sampled_from([1.0, 1.5, 2.0, 5.0])
NAMES = ["old_logprobs", "sampler_logprobs", "completion_mask"]


def test_by_hand() -> None:
    """Quotients of 1, 0.5, 1.9, 2.1 and 1000, the last but masked."""
    quotients = torch.tensor([[1.0, 0.5, 1.9], [2.1, 1e3, 1e3]])
    sampler = torch.full((2, 3), -3.0)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    given_ = (sampler + quotients.log(), sampler, mask)
    assert_matches(truncated_importance_weights(*given_, 2.0), [[1.0, 0.5, 1.9], [2.0, 2.0, 0.0]])
    numbers = importance_numbers(*given_, 2.0)
    kl = sum(q - 1 - math.log(q) for q in (1.0, 0.5, 1.9, 2.1, 1e3)) / 5
    assert numbers == pytest.approx(
        {"importance_mean": 7.4 / 5, "importance_truncated": 0.4, "sampler_kl": kl}, rel=1e-4
    )


@given(batch=batches(), cap=CAPS)
@few
def test_matches_reference(batch: Batch, cap: float) -> None:
    old = batch.normal() - 2
    sampler = old + batch.normal(0.8)
    weights, numbers = reference.importance(old.tolist(), sampler.tolist(), batch.mask.tolist(), cap)
    soiled = (batch.soiled(old), batch.soiled(sampler), batch.mask, cap)
    assert_matches(truncated_importance_weights(*soiled), weights)
    assert importance_numbers(*soiled) == pytest.approx(numbers, rel=1e-4, abs=1e-5)


def test_equal_logprobs_weigh_exactly_one_and_huge_gaps_the_cap() -> None:
    logprobs, mask = torch.randn(2, 5), torch.ones(2, 5, dtype=torch.bool)
    assert torch.equal(truncated_importance_weights(logprobs, logprobs, mask, 1.0), torch.ones(2, 5))
    wide = truncated_importance_weights(torch.zeros(1, 2), torch.tensor([[-1e4, 1e4]]), mask[:1, :2], 3.0)
    assert_matches(wide, [[3.0, 0.0]])


def test_no_gradient_passes() -> None:
    logprobs = torch.randn(1, 3, requires_grad=True)
    weights = truncated_importance_weights(logprobs, torch.randn(1, 3), torch.ones(1, 3, dtype=torch.bool), 2.0)
    assert not weights.requires_grad


def test_below_the_cap_the_expectation_is_the_policys() -> None:
    """E_μ[w f] = E_π[f] over a small vocabulary; with the cap it falls short by what was cut."""
    policy, sampler = torch.tensor([0.5, 0.3, 0.15, 0.05]), torch.tensor([0.3, 0.3, 0.3, 0.1])
    values = torch.tensor([1.0, -2.0, 3.0, 0.5])
    mask = torch.ones(1, 4, dtype=torch.bool)
    weights = truncated_importance_weights(policy.log()[None], sampler.log()[None], mask, 2.0)[0]
    assert_matches((sampler * weights * values).sum(), float((policy * values).sum()))
    cut = truncated_importance_weights(policy.log()[None], sampler.log()[None], mask, 1.2)[0]
    assert_matches((sampler * cut * values).sum(), float((policy * values).sum()) - (0.5 - 0.3 * 1.2))


@given(batch=batches(), cap=CAPS)
@few
def test_the_policy_loss_weighs_each_token(batch: Batch, cap: float) -> None:
    logprobs, advantages, sampler = batch.normal(), batch.normal(), batch.normal()
    old = logprobs + batch.normal(0.4)
    weights = truncated_importance_weights(old, sampler, batch.mask, cap)
    answer = clipped_policy_loss(logprobs, old, advantages, batch.mask, 0.2, weights)
    expected = reference.policy_loss(
        *(x.tolist() for x in (logprobs, old, advantages, batch.mask)), 0.2, weights.tolist()
    )
    for metric, value in expected.items():
        assert_matches(getattr(answer, metric), value)
    soiled = clipped_policy_loss(logprobs, old, advantages, batch.mask, 0.2, batch.soiled(weights))
    assert torch.equal(soiled.loss, answer.loss)


def test_a_weight_scales_the_gradient_of_its_token_alone() -> None:
    logprobs, mask = torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2, dtype=torch.bool)
    weights = torch.tensor([[1.5, 0.25]])
    clipped_policy_loss(logprobs, torch.zeros(1, 2), torch.ones(1, 2), mask, 0.2, weights).loss.backward()
    assert_matches(logprobs.grad[0], [-0.75, -0.125])


def test_bad_input(as_in_production: None) -> None:
    ones, mask = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    for cap in (0.99, 0.0):
        with pytest.raises(ValueError, match="cap must be at least 1"):
            truncated_importance_weights(ones, ones, mask, cap)
    with pytest.raises(ValueError, match="counts no element"):
        importance_numbers(ones, ones, ~mask, 2.0)
    assert_refuses_odd_shapes(truncated_importance_weights, NAMES, cap=2.0)
    with pytest.raises(ValueError, match=r"weights \(1, 3\)"):
        clipped_policy_loss(ones, ones, ones, mask, 0.2, torch.ones(1, 3))
