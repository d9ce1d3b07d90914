from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.method.batches import few
from tests.method.linear_gaussian_models import RELEVANCES, SEEDS, any_model, informative_models, models, tunings
from tests.method.test_linear_gaussian import HAND
from tests.references import theorem_float64 as reference

from fisao_pipeline.method.linear_gaussian import (
    LinearGaussianModel,
    draw_features,
    feedback_power,
    language_prior_policy,
    missed_and_seen,
)
from fisao_pipeline.method.vision_feedback import (
    Tuning,
    best_vision_weight,
    expected_loss,
    loss_slope_at_zero,
    simulated_loss,
    tuned_policy_mean,
    tuned_policy_std,
)

MAPS = ("image_map", "text_map", "policy_image_map", "policy_text_map", "verifier_map", "feature_cov")


def weights(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss_at(model: LinearGaussianModel, weight: float, tuning: Tuning, relevance: float = 1.0) -> float:
    return expected_loss(model, weights(weight), tuning, relevance).item()


class TestByHand:
    """HAND: bias 0.75, c = 2.25, q = 9, σ = 0.5, τ = 1; with β = 2 and α = 0, κ = 1/2."""

    tuning = Tuning(kl_coef=2.0)

    def test_loss(self) -> None:
        # L(0) = 0.75 + 0.25 + 1 = 2; L(λ) = 2 − 2.25 λ + 2.25 λ².
        losses = expected_loss(HAND, weights(0, 0.5, 1, 2), self.tuning)
        torch.testing.assert_close(losses, weights(2.0, 1.4375, 2.0, 6.5))

    def test_control(self) -> None:
        losses = expected_loss(HAND, weights(0, 0.5, 1), self.tuning, relevance=0.0)
        torch.testing.assert_close(losses, weights(2.0, 2.5625, 4.25))

    def test_slope_and_best_weight(self) -> None:
        assert loss_slope_at_zero(HAND, self.tuning).item() == pytest.approx(-2.25)
        assert best_vision_weight(HAND, self.tuning).item() == pytest.approx(0.5)
        assert best_vision_weight(HAND, self.tuning, relevance=0.5).item() == pytest.approx(0.25)
        assert best_vision_weight(HAND, self.tuning, relevance=0.0).item() == 0.0

    def test_own_preference_narrows_the_policy_and_shortens_the_step(self) -> None:
        # α = 2: κ = 1/4, spread √(2/4): L(0) = 0.75 + 0.25 + 0.5.
        own = Tuning(kl_coef=2.0, self_weight=2.0)
        assert tuned_policy_std(HAND, own) == pytest.approx(math.sqrt(0.5))
        torch.testing.assert_close(expected_loss(HAND, weights(0, 1), own), weights(1.5, 1.5 - 1.125 + 0.5625))

    def test_tuned_mean(self) -> None:
        one = torch.ones(1, 1, dtype=torch.float64)
        # m₀ = 1 + 1.5; plus λκ C x' = 2 · 1/2 · 3 · (−1).
        assert tuned_policy_mean(HAND, one, one, -one, 2.0, self.tuning).item() == pytest.approx(-0.5)


class TestTunedPolicy:
    @given(seed=SEEDS, tuning=tunings, weight=st.floats(0, 3))
    @few
    def test_is_the_untuned_policy_tilted_by_the_reward(self, seed: int, tuning: Tuning, weight: float) -> None:
        """Log π_λ(y) − log π₀(y) − r(y)/β is the same for all y: then π_λ is the maximiser and no other."""
        model = any_model(seed, 3, 2, 2, 0.5, 0.8)
        generator = torch.Generator().manual_seed(seed)
        image, text, other = torch.randn(3, 1, 2, generator=generator, dtype=torch.float64)
        responses = 2 * torch.randn(20, 3, generator=generator, dtype=torch.float64)
        untuned = torch.distributions.Normal(
            image @ model.policy_image_map.T + text @ model.policy_text_map.T, model.policy_std
        )
        tuned = torch.distributions.Normal(
            tuned_policy_mean(model, image, text, other, weight, tuning), tuned_policy_std(model, tuning)
        )
        log_untuned = untuned.log_prob(responses).sum(dim=1)
        feedback = (responses * (other @ model.verifier_map.T)).sum(dim=1)
        reward = tuning.self_weight * log_untuned + weight * feedback
        constant = tuned.log_prob(responses).sum(dim=1) - log_untuned - reward / tuning.kl_coef
        torch.testing.assert_close(constant, constant[:1].expand(20), rtol=1e-8, atol=1e-8)

    @given(seed=SEEDS, tuning=tunings, weight=st.floats(0, 3))
    @few
    def test_no_other_normal_policy_earns_more(self, seed: int, tuning: Tuning, weight: float) -> None:
        model = any_model(seed, 3, 2, 2, 0.5, 0.8)
        generator = np.random.default_rng(seed)
        image, text, other = torch.tensor(generator.normal(size=(3, 1, 2)))
        mean = tuned_policy_mean(model, image, text, other, weight, tuning)[0].numpy()
        std = tuned_policy_std(model, tuning)
        untuned = (image @ model.policy_image_map.T + text @ model.policy_text_map.T)[0].numpy()
        setting = {
            "untuned": untuned,
            "feedback": (other @ model.verifier_map.T)[0].numpy(),
            "policy": model.policy_std,
            "kl_coef": tuning.kl_coef,
            "self_weight": tuning.self_weight,
            "vision_weight": weight,
        }
        best = reference.regularised_reward(mean, std, **setting)
        for scale in (0.01, 0.3):
            moved = mean + scale * generator.normal(size=3)
            assert reference.regularised_reward(moved, std, **setting) < best
            for factor in (1 - scale, 1 + scale):
                assert reference.regularised_reward(mean, std * factor, **setting) < best


class TestExpectedLoss:
    @given(model=models(), tuning=tunings, weight=st.floats(0, 3), relevance=RELEVANCES)
    @few
    def test_matches_reference(
        self, model: LinearGaussianModel, tuning: Tuning, weight: float, relevance: float
    ) -> None:
        maps = {name: getattr(model, name).numpy() for name in MAPS}
        spreads = {
            "noise": model.noise_std,
            "policy": model.policy_std,
            "kl_coef": tuning.kl_coef,
            "self_weight": tuning.self_weight,
        }
        expected = reference.expected_loss(maps, spreads, weight, relevance)
        assert loss_at(model, weight, tuning, relevance) == pytest.approx(expected, rel=1e-9)

    @given(model=models(), kl_coef=st.floats(0.05, 2), relevance=RELEVANCES)
    @few
    def test_at_zero_it_is_the_untuned_policys(
        self, model: LinearGaussianModel, kl_coef: float, relevance: float
    ) -> None:
        missed = torch.cat([model.image_map - model.policy_image_map, model.text_map - model.policy_text_map], dim=1)
        untuned = torch.trace(missed @ model.feature_cov @ missed.T).item()
        untuned += len(missed) * (model.noise_std**2 + model.policy_std**2)
        assert loss_at(model, 0.0, Tuning(kl_coef), relevance) == pytest.approx(untuned, rel=1e-9)

    @given(model=models(), tuning=tunings, relevance=RELEVANCES)
    @few
    def test_autograd_gives_the_slope(self, model: LinearGaussianModel, tuning: Tuning, relevance: float) -> None:
        zero = weights(0.0).requires_grad_()
        expected_loss(model, zero, tuning, relevance).sum().backward()
        assert zero.grad is not None
        expected = loss_slope_at_zero(model, tuning, relevance).item()
        assert zero.grad.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


class TestTheorem:
    @given(model=informative_models(), tuning=tunings, relevance=st.floats(0.05, 1), share=st.floats(0.01, 1.99))
    @few
    def test_some_feedback_lowers_the_loss_where_it_is_informative(
        self, model: LinearGaussianModel, tuning: Tuning, relevance: float, share: float
    ) -> None:
        assert loss_slope_at_zero(model, tuning, relevance) < 0
        best = best_vision_weight(model, tuning, relevance).item()
        untuned, lowest = loss_at(model, 0.0, tuning, relevance), loss_at(model, best, tuning, relevance)
        drop = relevance**2 * missed_and_seen(model).item() ** 2 / feedback_power(model).item()
        tolerance = 1e-9 * untuned
        assert lowest == pytest.approx(untuned - drop, abs=tolerance)
        assert lowest <= loss_at(model, share * best, tuning, relevance) + tolerance
        # Lower than at 0 on the whole of (0, 2λ°), equal at its end, higher beyond.
        assert loss_at(model, share * best, tuning, relevance) < untuned - drop * share * (2 - share) + tolerance
        assert loss_at(model, 2 * best, tuning, relevance) == pytest.approx(untuned, abs=tolerance)
        assert loss_at(model, 2.1 * best, tuning, relevance) > untuned + 0.2 * drop - tolerance

    @given(model=models(), tuning=tunings, weight=st.floats(0.01, 100))
    @few
    def test_control_images_of_others_never_lower_it(
        self, model: LinearGaussianModel, tuning: Tuning, weight: float
    ) -> None:
        assert loss_slope_at_zero(model, tuning, relevance=0.0).item() == 0
        assert best_vision_weight(model, tuning, relevance=0.0).item() == 0
        assert loss_at(model, weight, tuning, 0.0) > loss_at(model, 0.0, tuning, 0.0)

    @given(model=informative_models(), tuning=tunings, weight=st.floats(0.01, 100))
    @few
    def test_nor_does_a_verifier_that_sees_the_opposite(
        self, model: LinearGaussianModel, tuning: Tuning, weight: float
    ) -> None:
        misled = replace(model, verifier_map=-model.verifier_map)
        assert loss_slope_at_zero(misled, tuning) > 0
        assert best_vision_weight(misled, tuning).item() == 0
        assert loss_at(misled, weight, tuning) > loss_at(misled, 0.0, tuning)

    @given(model=models(), tuning=tunings, share=st.floats(0.05, 1))
    @few
    def test_a_true_verifier_helps_every_policy_that_guesses_from_the_prompt(
        self, model: LinearGaussianModel, tuning: Tuning, share: float
    ) -> None:
        policy = language_prior_policy(model.image_map, model.text_map, model.feature_cov, share)
        biased = replace(
            model, policy_image_map=policy[0], policy_text_map=policy[1], verifier_map=model.image_map.clone()
        )
        best = best_vision_weight(biased, tuning).item()
        assert best > 0
        assert loss_at(biased, best, tuning) < loss_at(biased, 0.0, tuning)

    @pytest.mark.parametrize("reason", ["no bias", "image told by prompt"])
    def test_nothing_to_gain_where_nothing_is_missed(self, reason: str) -> None:
        model, tuning = any_model(1, 3, 2, 2, 0.5, 1.0), Tuning(1.0)
        if reason == "image told by prompt":
            half = torch.eye(2, dtype=torch.float64)
            model = replace(model, feature_cov=half.repeat(2, 2))
        policy = language_prior_policy(model.image_map, model.text_map, model.feature_cov, float(reason != "no bias"))
        model = replace(
            model, policy_image_map=policy[0], policy_text_map=policy[1], verifier_map=model.image_map.clone()
        )
        assert loss_slope_at_zero(model, tuning).item() == pytest.approx(0, abs=1e-9)
        assert loss_at(model, 0.1, tuning) > loss_at(model, 0.0, tuning)


class TestSimulation:
    @pytest.mark.parametrize("relevance", [0.0, 0.6, 1.0])
    @pytest.mark.parametrize("self_weight", [0.0, 1.0])
    def test_agrees_with_the_closed_form(self, relevance: float, self_weight: float) -> None:
        model, tuning, grid = any_model(2, 4, 3, 2, 0.5, 0.9), Tuning(0.8, self_weight), weights(0.0, 0.3, 1.0)
        mean, error = simulated_loss(model, grid, tuning, 100_000, torch.Generator().manual_seed(0), relevance)
        exact = expected_loss(model, grid, tuning, relevance)
        assert (error < 0.01 * exact).all()
        assert ((mean - exact).abs() < 4 * error).all()

    @given(model=models(), tuning=tunings, weight=st.floats(0, 2), relevance=RELEVANCES, seed=SEEDS)
    @few
    def test_agrees_for_any_model(
        self, model: LinearGaussianModel, tuning: Tuning, weight: float, relevance: float, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        mean, error = simulated_loss(model, weights(weight), tuning, 4000, generator, relevance)
        assert abs(mean.item() - loss_at(model, weight, tuning, relevance)) < 6 * error.item()

    def test_its_standard_error_is_the_spread_of_its_means(self) -> None:
        model, tuning = any_model(3, 3, 2, 2, 0.5, 1.0), Tuning(1.0)
        grid = torch.full((400,), 0.4, dtype=torch.float64)
        mean, error = simulated_loss(model, grid, tuning, 500, torch.Generator().manual_seed(0))
        deviations = (mean - expected_loss(model, grid, tuning)) / error
        assert 0.9 < deviations.std().item() < 1.1
        assert abs(deviations.mean().item()) < 0.25

    def test_by_hand_from_the_generators_own_draws(self) -> None:
        # HAND with β = 2, α = 0: m₀ = x_v + 1.5 x_t, κ = 1/2, C = 3 and τ = 1; ρ = 0.6 leaves 0.8 for the other image.
        grid, generator = weights(0.5, 3.0), torch.Generator().manual_seed(5)
        found = simulated_loss(HAND, grid, Tuning(2.0), 50, torch.Generator().manual_seed(5), relevance=0.6)
        for index, weight in enumerate(grid.tolist()):
            image, text, other_image, truth = draw_features(HAND, 50, generator)
            noise = torch.randn(50, 1, generator=generator, dtype=torch.float64)
            response = image + 1.5 * text + 0.5 * weight * 3 * (0.6 * image + 0.8 * other_image) + noise
            losses = (response - truth) ** 2
            assert found.mean[index].item() == pytest.approx(losses.mean().item(), rel=1e-12)
            assert found.standard_error[index].item() == pytest.approx(losses.std().item() / math.sqrt(50), rel=1e-12)

    def test_repeats_with_its_seed(self) -> None:
        arguments = (HAND, weights(0.5), Tuning(1.0), 10)
        first, again, other = (simulated_loss(*arguments, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
        assert torch.equal(first.mean, again.mean)
        assert not torch.equal(first.mean, other.mean)


class TestRefuses:
    @pytest.mark.parametrize("relevance", [-0.1, 1.1, float("nan")])
    def test_relevance(self, relevance: float) -> None:
        for function in (loss_slope_at_zero, best_vision_weight):
            with pytest.raises(ValueError, match="relevance"):
                function(HAND, Tuning(1.0), relevance)
        with pytest.raises(ValueError, match="relevance"):
            expected_loss(HAND, weights(0), Tuning(1.0), relevance)
        with pytest.raises(ValueError, match="relevance"):
            simulated_loss(HAND, weights(0), Tuning(1.0), 10, torch.Generator(), relevance)

    @pytest.mark.parametrize(("kl_coef", "self_weight"), [(0.0, 0.0), (-1.0, 0.0), (1.0, -0.5)])
    def test_tuning(self, kl_coef: float, self_weight: float) -> None:
        with pytest.raises(ValueError, match=r"kl_coef .* self_weight"):
            Tuning(kl_coef, self_weight)

    def test_a_blind_verifier(self) -> None:
        with pytest.raises(ValueError, match="verifier_map"):
            best_vision_weight(replace(HAND, verifier_map=torch.zeros(1, 1, dtype=torch.float64)), Tuning(1.0))

    def test_a_single_sample(self) -> None:
        with pytest.raises(ValueError, match="samples"):
            simulated_loss(HAND, weights(0), Tuning(1.0), 1, torch.Generator())
        simulated_loss(HAND, weights(0), Tuning(1.0), 2, torch.Generator())
