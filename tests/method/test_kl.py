from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.method.batches import assert_matches, few
from tests.references import method_float64 as reference

from fisao_pipeline.method.kl import adapted_kl_coef, kl_estimate

ESTIMATORS = ["k1", "k2", "k3"]
SEEDS = st.integers(0, 2**31)


def policies(seed: int, vocabulary: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a policy and log-probabilities of its reference, float64."""
    generator = torch.Generator().manual_seed(seed)
    logits, ref_logits = torch.randn(2, vocabulary, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), ref_logits.log_softmax(-1)


def test_by_hand() -> None:
    # d = log 2: k1 = 0.6931, k2 = 0.2402, k3 = 1/2 − 1 + 0.6931.
    logprobs, ref_logprobs = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert_matches(kl_estimate(logprobs, ref_logprobs, "k1"), [0.6931472])
    assert_matches(kl_estimate(logprobs, ref_logprobs, "k2"), [0.2402265])
    assert_matches(kl_estimate(logprobs, ref_logprobs, "k3"), [0.1931472])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(pairs=st.lists(st.tuples(st.floats(-8, 0), st.floats(-8, 0)), min_size=1, max_size=6))
@few
def test_matches_reference_token_by_token(estimator: str, pairs: list[tuple[float, float]]) -> None:
    logprobs, ref_logprobs = torch.tensor(pairs).unbind(dim=1)
    expected = [
        reference.kl_estimate(a, b, estimator) for a, b in zip(logprobs.tolist(), ref_logprobs.tolist(), strict=True)
    ]
    assert_matches(kl_estimate(logprobs, ref_logprobs, estimator), expected)
    if estimator != "k1":
        assert (kl_estimate(logprobs, ref_logprobs, estimator) >= -1e-6).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_is_zero_where_the_policies_agree(estimator: str) -> None:
    logprobs = torch.tensor([[-0.5, -3.0], [0.0, -20.0]])
    assert torch.equal(kl_estimate(logprobs, logprobs, estimator), torch.zeros(2, 2))


def test_k3_of_a_small_difference_is_not_lost_in_rounding() -> None:
    difference = torch.tensor([1e-2], dtype=torch.float32)
    assert_matches(kl_estimate(difference, torch.zeros(1), "k3") * 1e5, [4.983375], atol=1e-2)


@given(seed=SEEDS)
@few
def test_expectation_of_k1_and_of_k3_is_the_divergence(seed: int) -> None:
    logits, ref_logprobs = policies(seed)
    logprobs = logits.detach().log_softmax(-1)
    exact = reference.kl_divergence(logprobs.exp().tolist(), ref_logprobs.exp().tolist())
    expected = {e: (logprobs.exp() * kl_estimate(logprobs, ref_logprobs, e)).sum().item() for e in ESTIMATORS}
    assert expected["k1"] == pytest.approx(exact, rel=1e-9)
    assert expected["k3"] == pytest.approx(exact, rel=1e-9)
    assert expected["k2"] != pytest.approx(exact, rel=1e-4)


@given(seed=SEEDS)
@few
def test_only_k2_has_the_gradient_of_the_divergence(seed: int) -> None:
    exact = torch.tensor(
        reference.kl_divergence_gradient(policies(seed)[0].softmax(-1).tolist(), policies(seed)[1].exp().tolist()),
        dtype=torch.float64,
    )
    gradients = {}
    for estimator in ESTIMATORS:
        logits, ref_logprobs = policies(seed)
        logprobs = logits.log_softmax(-1)
        # The tokens are drawn, not differentiated: their probabilities are constants of the expectation.
        (logits.softmax(-1).detach() * kl_estimate(logprobs, ref_logprobs, estimator)).sum().backward()
        gradients[estimator] = logits.grad
    torch.testing.assert_close(gradients["k2"], exact, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(gradients["k1"], torch.zeros_like(exact), rtol=0, atol=1e-12)
    assert (gradients["k3"] - exact).abs().max() > 1e-2 * exact.abs().max()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_order(estimator: str) -> None:
    logprobs, ref_logprobs = -torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(
        kl_estimate(logprobs[order], ref_logprobs[order], estimator),
        kl_estimate(logprobs, ref_logprobs, estimator)[order],
    )


def test_refuses_shapes_that_differ_and_unknown_estimators(as_in_production: None) -> None:
    with pytest.raises(ValueError, match=r"^kl_estimate: logprobs \(2, 3\) and ref_logprobs \(1, 3\) differ$"):
        kl_estimate(torch.zeros(2, 3), torch.zeros(1, 3), "k1")
    with pytest.raises(ValueError, match=r"^kl_estimate: estimator must be k1, k2 or k3, got 'k4'$"):
        kl_estimate(torch.zeros(2), torch.zeros(2), "k4")


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (6.0, 0.1),  # on target
        (6.6, 0.1 * 1.01),  # 10% above: a tenth of the horizon later, a hundredth more
        (5.4, 0.1 * 0.99),
        (600.0, 0.1 * 1.02),  # errors beyond ±20% count as ±20%
        (0.0, 0.1 * 0.98),
    ],
)
def test_adapted_kl_coef_by_hand(observed: float, expected: float) -> None:
    coefficient = adapted_kl_coef(0.1, observed_nats=observed, target_nats=6.0, horizon=1000.0, step=100.0)
    assert coefficient == pytest.approx(expected, rel=1e-9)


@given(
    kl_coef=st.floats(0.001, 2),
    observed=st.floats(0, 50),
    target=st.floats(0.1, 20),
    horizon=st.floats(10, 1e4),
    share=st.floats(0, 4.9),
)
@few
def test_adapted_kl_coef_reference_direction_and_bounds(
    kl_coef: float, observed: float, target: float, horizon: float, share: float
) -> None:
    answer = adapted_kl_coef(kl_coef, observed, target, horizon, share * horizon)
    assert answer == pytest.approx(
        reference.adapted_kl_coef(kl_coef, observed, target, horizon, share * horizon), rel=1e-9
    )
    assert (answer - kl_coef) * (observed - target) >= 0
    assert abs(answer / kl_coef - 1) <= 0.2 * share + 1e-9
    # Only the ratios count: the same in other units of KL and of steps.
    scaled = adapted_kl_coef(kl_coef, 2 * observed, 2 * target, 3 * horizon, 3 * share * horizon)
    assert scaled == pytest.approx(answer, rel=1e-9)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"target_nats": 0.0}, "must be positive"),
        ({"target_nats": -1.0}, "must be positive"),
        ({"horizon": 0.0}, "must be positive"),
        ({"step": 500.0}, "must lie in"),
        ({"step": -1.0}, "must lie in"),
    ],
)
def test_adapted_kl_coef_refuses(wrong: dict[str, float], reason: str) -> None:
    arguments = {"observed_nats": 5.0, "target_nats": 6.0, "horizon": 100.0, "step": 1.0} | wrong
    with pytest.raises(ValueError, match=f"adapted_kl_coef: .*{next(iter(wrong))}.*{reason}"):
        adapted_kl_coef(0.1, **arguments)
    assert adapted_kl_coef(0.1, 0.0, 6.0, 100.0, 499.0) > 0
    assert adapted_kl_coef(0.1, 0.0, 6.0, 100.0, 0.0) == 0.1
    assert adapted_kl_coef(0.1, 0.5, 0.5, 0.5, 0.5) == 0.1
