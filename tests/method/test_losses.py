from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.method.batches import Batch, assert_matches, assert_refuses_odd_shapes, batches, few
from tests.references import method_float64 as reference

from fisao_pipeline.method.kl import kl_estimate
from fisao_pipeline.method.losses import clipped_policy_loss, clipped_value_loss, kl_loss

CLIP_RANGES = st.sampled_from([0.05, 0.2, 0.5])
METRICS = ["loss", "ratio_mean", "clip_fraction", "approx_kl"]


def policy_loss_of(ratios: list[float], advantages: list[float], clip_range: float = 0.2):
    """Loss of single tokens with these ratios, and the gradient of each token's log-probability."""
    logprobs = torch.tensor([ratios]).log().requires_grad_()
    mask = torch.ones(1, len(ratios), dtype=torch.bool)
    answer = clipped_policy_loss(logprobs, torch.zeros(1, len(ratios)), torch.tensor([advantages]), mask, clip_range)
    answer.loss.backward()
    return answer, logprobs.grad[0]


class TestPolicyLoss:
    @pytest.mark.parametrize(
        ("ratio", "advantage", "loss", "flat"),
        [
            (1.5, 2.0, -2.4, True),  # has gained enough: held at 1.2
            (0.5, 2.0, -1.0, False),  # good, yet less probable: the full loss
            (1.5, -2.0, 3.0, False),  # bad, yet more probable: the full loss
            (0.5, -2.0, 1.6, True),  # has lost enough: held at 0.8
            (1.1, 2.0, -2.2, False),
            (0.9, -2.0, 1.8, False),
        ],
    )
    def test_by_hand_in_all_quarters(self, ratio: float, advantage: float, loss: float, flat: bool) -> None:
        answer, gradient = policy_loss_of([ratio], [advantage])
        assert_matches(answer.loss, loss)
        assert_matches(answer.ratio_mean, ratio)
        assert answer.clip_fraction.item() == (1.0 if abs(ratio - 1) > 0.2 else 0.0)
        assert_matches(answer.approx_kl, ratio - 1 - math.log(ratio))
        assert_matches(gradient, [0.0 if flat else -ratio * advantage])

    @given(batch=batches(), clip_range=CLIP_RANGES)
    @few
    def test_matches_reference(self, batch: Batch, clip_range: float) -> None:
        logprobs, advantages = batch.normal(), batch.normal()
        old_logprobs = logprobs + batch.normal(0.4)
        answer = clipped_policy_loss(logprobs, old_logprobs, advantages, batch.mask, clip_range)
        expected = reference.policy_loss(
            logprobs.tolist(), old_logprobs.tolist(), advantages.tolist(), batch.mask.tolist(), clip_range
        )
        for metric in METRICS:
            assert_matches(getattr(answer, metric), expected[metric])

    def test_mean_is_over_the_tokens_of_the_batch_and_not_per_response_first(self) -> None:
        # A response of one token with advantage 4, one of three with advantage 0.
        mask = torch.tensor([[True, False, False], [True, True, True]])
        advantages = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        zeros = torch.zeros(2, 3)
        assert clipped_policy_loss(zeros, zeros, advantages, mask, 0.2).loss.item() == -1.0  # per response: −2

    @given(batch=batches(), clip_range=CLIP_RANGES)
    @few
    def test_at_ratio_one_the_loss_is_minus_the_mean_advantage(self, batch: Batch, clip_range: float) -> None:
        logprobs, advantages = batch.normal().requires_grad_(), batch.normal()
        answer = clipped_policy_loss(logprobs, logprobs.detach(), advantages, batch.mask, clip_range)
        count = batch.mask.sum().item()
        assert_matches(answer.loss.detach(), -reference.masked_mean(advantages.tolist(), batch.mask.tolist()))
        assert (answer.ratio_mean.item(), answer.clip_fraction.item(), answer.approx_kl.item()) == (1.0, 0.0, 0.0)
        answer.loss.backward()
        expected = torch.where(batch.mask, -advantages / count, 0.0)
        torch.testing.assert_close(logprobs.grad, expected, rtol=1e-5, atol=1e-7)

    @given(batch=batches(), narrow=st.floats(0.01, 0.9), wider=st.floats(0.0, 0.9))
    @few
    def test_a_wider_range_never_clips_more(self, batch: Batch, narrow: float, wider: float) -> None:
        logprobs, old_logprobs, advantages = batch.normal(0.4), batch.normal(0.4), batch.normal()
        tight, loose = (
            clipped_policy_loss(logprobs, old_logprobs, advantages, batch.mask, clip_range)
            for clip_range in (narrow, narrow + wider)
        )
        assert loose.clip_fraction <= tight.clip_fraction
        assert loose.loss <= tight.loss + 1e-6
        assert_matches(loose.ratio_mean, tight.ratio_mean.item())

    @given(batch=batches(), clip_range=CLIP_RANGES)
    @few
    def test_gradient_is_zero_exactly_where_the_clip_holds(self, batch: Batch, clip_range: float) -> None:
        logprobs, advantages = batch.normal(0.5).requires_grad_(), batch.normal()
        old_logprobs = batch.normal(0.5)
        clipped_policy_loss(logprobs, old_logprobs, advantages, batch.mask, clip_range).loss.backward()
        ratio = (logprobs - old_logprobs).detach().exp()
        held = ((advantages > 0) & (ratio > 1 + clip_range)) | ((advantages < 0) & (ratio < 1 - clip_range))
        expected = torch.where(batch.mask & ~held, -ratio * advantages / batch.mask.sum(), 0.0)
        torch.testing.assert_close(logprobs.grad, expected, rtol=1e-5, atol=1e-7)

    @given(batch=batches())
    @few
    def test_what_is_masked_changes_neither_value_nor_gradient(self, batch: Batch) -> None:
        tensors = [batch.normal(0.5), batch.normal(0.5), batch.normal()]
        clean = tensors[0].clone().requires_grad_()
        soiled = batch.soiled(tensors[0]).requires_grad_()
        expected = clipped_policy_loss(clean, *tensors[1:], batch.mask, 0.2)
        answer = clipped_policy_loss(soiled, *map(batch.soiled, tensors[1:]), batch.mask, 0.2)
        for metric in METRICS:
            torch.testing.assert_close(getattr(answer, metric), getattr(expected, metric), rtol=0, atol=0)
        expected.loss.backward()
        answer.loss.backward()
        torch.testing.assert_close(soiled.grad, clean.grad, rtol=0, atol=0)
        assert (soiled.grad[~batch.mask] == 0).all()

    @given(batch=batches())
    @few
    def test_order_of_the_batch_is_of_no_account(self, batch: Batch) -> None:
        tensors, order = [batch.normal(0.5), batch.normal(0.5), batch.normal()], batch.order()
        straight = clipped_policy_loss(*tensors, batch.mask, 0.2)
        turned = clipped_policy_loss(*(x[order] for x in tensors), batch.mask[order], 0.2)
        for metric in METRICS:
            assert_matches(getattr(turned, metric), getattr(straight, metric).item())

    def test_approx_kl_estimates_the_divergence_of_the_old_policy_from_the_new(self) -> None:
        # Tokens in the exact proportions of the old policy: its expectation, enumerated.
        counts, new = [1, 2, 5], [0.5, 0.3, 0.2]
        old = [n / 8 for n in counts]
        tokens = [token for token, n in enumerate(counts) for _ in range(n)]
        logprobs, old_logprobs = (torch.tensor([[math.log(p[token]) for token in tokens]]) for p in (new, old))
        mask = torch.ones(1, 8, dtype=torch.bool)
        answer = clipped_policy_loss(logprobs, old_logprobs, torch.zeros(1, 8), mask, 0.2)
        assert_matches(answer.approx_kl, reference.kl_divergence(old, new))
        assert_matches(answer.ratio_mean, 1.0)

    def test_a_ratio_at_the_very_edge_has_not_left_the_range(self) -> None:
        answer, _ = policy_loss_of([2.0, 4.0], [1.0, 1.0], clip_range=1.0)
        assert answer.ratio_mean.item() == 3.0  # exactly 2 and 4
        assert answer.clip_fraction.item() == 0.5

    def test_only_the_loss_carries_a_gradient(self) -> None:
        logprobs = torch.zeros(1, 2, requires_grad=True)
        mask = torch.ones(1, 2, dtype=torch.bool)
        answer = clipped_policy_loss(logprobs, torch.full((1, 2), 0.3), torch.ones(1, 2), mask, 0.2)
        assert {m: getattr(answer, m).requires_grad for m in METRICS} == {
            "loss": True,
            "ratio_mean": False,
            "clip_fraction": False,
            "approx_kl": False,
        }

    def test_refuses(self) -> None:
        zeros, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
        for clip_range in (0.0, -0.1):
            with pytest.raises(ValueError, match="clip_range must be positive"):
                clipped_policy_loss(zeros, zeros, zeros, mask, clip_range)
        with pytest.raises(ValueError, match="counts no element"):
            clipped_policy_loss(zeros, zeros, zeros, ~mask, 0.2)

    def test_refuses_shapes_that_would_be_broadcast(self, as_in_production: None) -> None:
        names = ["logprobs", "old_logprobs", "advantages", "completion_mask"]
        assert_refuses_odd_shapes(clipped_policy_loss, names, clip_range=0.2)


class TestValueLoss:
    @pytest.mark.parametrize(
        ("value", "old", "target", "loss", "gradient"),
        [
            (1.0, 0.0, 2.0, 1.62, 0.0),  # moved towards the target beyond the range: ½ (0.2 − 2)², flat
            (-1.0, 0.0, 2.0, 4.5, -3.0),  # moved away from it: ½ (−1 − 2)²
            (0.1, 0.0, 2.0, 1.805, -1.9),  # within the range
            (3.0, 0.0, 2.0, 1.62, 0.0),  # overshot: what is held back errs more
            (-1.0, 0.0, -2.0, 1.62, 0.0),  # downwards the same
        ],
    )
    def test_by_hand(self, value: float, old: float, target: float, loss: float, gradient: float) -> None:
        values = torch.tensor([[value]], requires_grad=True)
        mask = torch.ones(1, 1, dtype=torch.bool)
        answer = clipped_value_loss(values, torch.tensor([[old]]), torch.tensor([[target]]), mask, 0.2)
        answer.backward()
        assert_matches(answer.detach(), loss)
        assert_matches(values.grad, [[gradient]])

    @given(batch=batches(), clip_range=CLIP_RANGES)
    @few
    def test_matches_reference(self, batch: Batch, clip_range: float) -> None:
        values, old_values, returns = batch.normal(), batch.normal(), batch.normal()
        answer = clipped_value_loss(values, old_values, returns, batch.mask, clip_range)
        tables = (values.tolist(), old_values.tolist(), returns.tolist(), batch.mask.tolist())
        assert_matches(answer, reference.value_loss(*tables, clip_range))

    def test_mean_is_over_the_tokens_of_the_batch_and_not_per_response_first(self) -> None:
        mask = torch.tensor([[True, False, False], [True, True, True]])
        returns = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        zeros = torch.zeros(2, 3)
        assert clipped_value_loss(zeros, zeros, returns, mask, 0.2).item() == 0.5  # per response: 1

    @given(batch=batches(), narrow=st.floats(0.01, 1.0), wider=st.floats(0.0, 2.0))
    @few
    def test_range_bounds(self, batch: Batch, narrow: float, wider: float) -> None:
        values, old_values, returns = batch.normal(), batch.normal(), batch.normal()
        plain = 0.5 * reference.masked_mean(((values - returns) ** 2).tolist(), batch.mask.tolist())
        tight = clipped_value_loss(values, old_values, returns, batch.mask, narrow).item()
        assert tight >= plain * (1 - 1e-5)
        # Values that have not moved, or may move at will, are not clipped.
        assert_matches(clipped_value_loss(values, values, returns, batch.mask, narrow), plain)
        assert_matches(clipped_value_loss(values, old_values, returns, batch.mask, 1e3), plain, atol=1e-4)

    @given(batch=batches())
    @few
    def test_what_is_masked_changes_neither_value_nor_gradient(self, batch: Batch) -> None:
        tensors = [batch.normal(), batch.normal(), batch.normal()]
        clean, soiled = tensors[0].clone().requires_grad_(), batch.soiled(tensors[0]).requires_grad_()
        expected = clipped_value_loss(clean, *tensors[1:], batch.mask, 0.2)
        answer = clipped_value_loss(soiled, *map(batch.soiled, tensors[1:]), batch.mask, 0.2)
        torch.testing.assert_close(answer, expected, rtol=0, atol=0)
        expected.backward()
        answer.backward()
        torch.testing.assert_close(soiled.grad, clean.grad, rtol=0, atol=0)
        assert (soiled.grad[~batch.mask] == 0).all()

    def test_a_masked_target_that_is_nan_leaves_the_gradient_of_sound_values_alone(self) -> None:
        values = torch.tensor([[1.0, 0.0]], requires_grad=True)
        returns, mask = torch.tensor([[0.5, float("nan")]]), torch.tensor([[True, False]])
        clipped_value_loss(values, values.detach().clone(), returns, mask, 0.2).backward()
        assert values.grad.tolist() == [[0.5, 0.0]]

    @given(batch=batches())
    @few
    def test_order_of_the_batch_is_of_no_account(self, batch: Batch) -> None:
        tensors, order = [batch.normal(), batch.normal(), batch.normal()], batch.order()
        straight = clipped_value_loss(*tensors, batch.mask, 0.2)
        assert_matches(clipped_value_loss(*(x[order] for x in tensors), batch.mask[order], 0.2), straight.item())

    def test_refuses(self) -> None:
        zeros, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
        for clip_range in (0.0, -0.1):
            with pytest.raises(ValueError, match="clip_range must be positive"):
                clipped_value_loss(zeros, zeros, zeros, mask, clip_range)
        with pytest.raises(ValueError, match="counts no element"):
            clipped_value_loss(zeros, zeros, zeros, ~mask, 0.2)

    def test_refuses_shapes_that_would_be_broadcast(self, as_in_production: None) -> None:
        names = ["values", "old_values", "returns", "completion_mask"]
        assert_refuses_odd_shapes(clipped_value_loss, names, clip_range=0.2)


def expected_gradient(logits: torch.Tensor, loss_of_token: torch.Tensor) -> torch.Tensor:
    """E over tokens drawn from the policy of a loss's gradient; the draw is a constant to autograd."""
    (logits.detach().softmax(-1) * loss_of_token).sum().backward()
    return logits.grad


class TestKLLoss:
    def test_by_hand(self) -> None:
        # d = log 2 and −log 2 on the two tokens that count: k2 = ½ (log 2)² each, times β.
        logprobs = torch.tensor([[0.5, 0.25, 0.9]]).log().requires_grad_()
        ref_logprobs, mask = torch.tensor([[0.25, 0.5, 0.1]]).log(), torch.tensor([[True, True, False]])
        loss = kl_loss(logprobs, ref_logprobs, mask, 0.1)
        assert_matches(loss, 0.1 * 0.2402265)
        loss.backward()
        # β d / 2 tokens.
        assert_matches(logprobs.grad, [[0.05 * math.log(2), -0.05 * math.log(2), 0.0]])

    @given(batch=batches(), kl_coef=st.floats(0, 2))
    @few
    def test_reference_order_and_padding(self, batch: Batch, kl_coef: float) -> None:
        logprobs, ref_logprobs = batch.normal(), batch.normal()
        each = [
            reference.kl_estimate(a, b, "k2")
            for a, b in zip(logprobs[batch.mask].tolist(), ref_logprobs[batch.mask].tolist(), strict=True)
        ]
        loss = kl_loss(logprobs, ref_logprobs, batch.mask, kl_coef)
        assert_matches(loss, kl_coef * sum(each) / len(each))
        order = batch.order()
        assert_matches(kl_loss(logprobs[order], ref_logprobs[order], batch.mask[order], kl_coef), loss.item())
        soiled = batch.soiled(logprobs).requires_grad_()
        dirty = kl_loss(soiled, batch.soiled(ref_logprobs), batch.mask, kl_coef)
        assert_matches(dirty, loss.item())
        dirty.backward()
        assert torch.isfinite(soiled.grad).all()
        assert (soiled.grad[~batch.mask] == 0).all()

    @given(seed=st.integers(0, 2**31), kl_coef=st.floats(0.01, 2))
    @few
    def test_its_expected_gradient_is_that_of_the_exact_divergence(self, seed: int, kl_coef: float) -> None:
        """On a small vocabulary, by autograd in float64; that of k3 is the reverse divergence's."""
        generator = torch.Generator().manual_seed(seed)
        start, ref_logits = torch.randn(2, 7, generator=generator, dtype=torch.float64)
        ref_logprobs = ref_logits.log_softmax(-1)

        def divergences(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logprobs = logits.log_softmax(-1)
            forward = (logprobs.exp() * (logprobs - ref_logprobs)).sum()
            return forward, (ref_logprobs.exp() * (ref_logprobs - logprobs)).sum()

        exact, reverse = (
            torch.autograd.grad(divergences(leaf)[which], leaf)[0]
            for which, leaf in enumerate(start.clone().requires_grad_() for _ in range(2))
        )
        of_token = torch.ones(1, 1, dtype=torch.bool)
        logits = start.clone().requires_grad_()
        k2 = torch.stack(
            [
                kl_loss(p.view(1, 1), r.view(1, 1), of_token, kl_coef)
                for p, r in zip(logits.log_softmax(-1), ref_logprobs, strict=True)
            ]
        )
        torch.testing.assert_close(expected_gradient(logits, k2), kl_coef * exact, rtol=1e-6, atol=1e-9)
        logits = start.clone().requires_grad_()
        k3 = kl_estimate(logits.log_softmax(-1), ref_logprobs, "k3")
        found = expected_gradient(logits, k3)
        torch.testing.assert_close(found, reverse, rtol=1e-6, atol=1e-9)
        assert (found - exact).abs().max() > 1e-2 * exact.abs().max()

    def test_refuses(self) -> None:
        mask = torch.ones(1, 2, dtype=torch.bool)
        with pytest.raises(ValueError, match=r"kl_coef must be at least 0, got -0\.1"):
            kl_loss(torch.zeros(1, 2), torch.zeros(1, 2), mask, -0.1)
        with pytest.raises(ValueError, match="counts no element"):
            kl_loss(torch.zeros(1, 2), torch.zeros(1, 2), ~mask, 0.1)

    def test_refuses_shapes_that_would_be_broadcast(self, as_in_production: None) -> None:
        assert_refuses_odd_shapes(kl_loss, ["logprobs", "ref_logprobs", "completion_mask"], kl_coef=0.1)
