from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.method.batches import few
from tests.method.linear_gaussian_models import SEEDS, any_model, models
from tests.references import theorem_float64 as reference

from fisao_pipeline.method.linear_gaussian import (
    LinearGaussianModel,
    draw_features,
    draw_model,
    feedback_power,
    language_prior_policy,
    missed_and_seen,
    policy_bias,
)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


# y* = 2 x_v + x_t + ε, correlation 0.5; a policy that guesses half of the image from the prompt: m₀ = x_v + 1.5 x_t.
COVARIANCE = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
HAND = LinearGaussianModel(scalar(2.0), scalar(1.0), scalar(1.0), scalar(1.5), scalar(3.0), COVARIANCE, 0.5, 1.0)


def test_by_hand() -> None:
    # y* − m₀ − ε = x_v − 0.5 x_t: variance 1 + 0.25 − 0.5 = 0.75; with C x_v = 3 x_v: 3 (1 − 0.25) = 2.25; q = 9.
    assert policy_bias(HAND).item() == pytest.approx(0.75)
    assert missed_and_seen(HAND).item() == pytest.approx(2.25)
    assert feedback_power(HAND).item() == pytest.approx(9.0)


@given(model=models())
@few
def test_moments_match_reference_and_scale(model: LinearGaussianModel) -> None:
    names = ("image_map", "text_map", "policy_image_map", "policy_text_map", "verifier_map", "feature_cov")
    expected = reference.moments({name: getattr(model, name).numpy() for name in names})
    found = policy_bias(model).item(), missed_and_seen(model).item(), feedback_power(model).item()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    # A verifier that shows twice as much is linear in c, quadratic in q, and no part of the bias.
    doubled = replace(model, verifier_map=2 * model.verifier_map)
    bias, seen, power = policy_bias(doubled).item(), missed_and_seen(doubled).item(), feedback_power(doubled).item()
    assert (bias, seen, power) == pytest.approx((found[0], 2 * found[1], 4 * found[2]), rel=1e-9)


class TestLanguagePriorPolicy:
    def test_by_hand(self) -> None:
        policy = language_prior_policy(HAND.image_map, HAND.text_map, COVARIANCE, 0.5)
        torch.testing.assert_close(policy, (HAND.policy_image_map, HAND.policy_text_map))

    @given(model=models(), share=st.floats(0, 1))
    @few
    def test_misses_only_what_the_prompt_cannot_tell(self, model: LinearGaussianModel, share: float) -> None:
        policy = language_prior_policy(model.image_map, model.text_map, model.feature_cov, share)
        missed = torch.cat([model.image_map - policy[0], model.text_map - policy[1]], dim=1)
        with_text = missed @ model.feature_cov[:, model.image_map.shape[1] :]
        torch.testing.assert_close(with_text, torch.zeros_like(with_text), rtol=0, atol=1e-9)

    @given(model=models(), share=st.floats(0, 1))
    @few
    def test_what_it_misses_is_seen_in_the_stated_measure(self, model: LinearGaussianModel, share: float) -> None:
        i = model.image_map.shape[1]
        policy = language_prior_policy(model.image_map, model.text_map, model.feature_cov, share)
        biased = replace(model, policy_image_map=policy[0], policy_text_map=policy[1])
        # The precision of x_v given x_t is its block of the inverse of Σ: another road to Σ_v|t.
        conditional = torch.linalg.inv(torch.linalg.inv(model.feature_cov)[:i, :i])
        expected = share * torch.trace(model.verifier_map.T @ model.image_map @ conditional)
        assert missed_and_seen(biased).item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-9)

    def test_without_a_bias_it_is_the_truth(self) -> None:
        torch.testing.assert_close(
            language_prior_policy(HAND.image_map, HAND.text_map, COVARIANCE, 0.0), (HAND.image_map, HAND.text_map)
        )

    @pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
    def test_refuses(self, share: float) -> None:
        with pytest.raises(ValueError, match="ignored_share"):
            language_prior_policy(HAND.image_map, HAND.text_map, COVARIANCE, share)


class TestDraws:
    def test_a_drawn_model_is_the_language_prior_policy_and_repeats(self) -> None:
        first, again = (draw_model((4, 3, 5), 0.7, 0.4, 0.5, 0.5, 0.6, torch.Generator().manual_seed(3)) for _ in "ab")
        assert torch.equal(first.verifier_map, again.verifier_map)
        torch.testing.assert_close(first.policy_image_map, 0.3 * first.image_map)
        torch.testing.assert_close(first.policy_text_map[:, :3], first.text_map[:, :3] + 0.28 * first.image_map)
        torch.testing.assert_close(first.policy_text_map[:, 3:], first.text_map[:, 3:])
        assert (first.noise_std, first.policy_std) == (0.5, 0.6)

    def test_a_drawn_models_maps_are_the_generators_numbers_over_the_root_of_their_columns(self) -> None:
        model = draw_model((4, 3, 5), 0.7, 0.4, 0.5, 0.5, 0.6, torch.Generator().manual_seed(3))
        generator = torch.Generator().manual_seed(3)
        image_map, text_map, error = (
            torch.randn(4, columns, generator=generator, dtype=torch.float64) / math.sqrt(columns)
            for columns in (3, 5, 3)
        )
        assert torch.equal(model.image_map, image_map)
        assert torch.equal(model.text_map, text_map)
        assert torch.equal(model.verifier_map, image_map + 0.5 * error)
        expected = torch.eye(8, dtype=torch.float64)
        for k in range(3):
            expected[k, 3 + k] = expected[3 + k, k] = 0.4
        assert torch.equal(model.feature_cov, expected)

    def test_features_have_their_covariance_and_other_images_have_none_with_them(self) -> None:
        model = any_model(5, 2, 2, 3, 0.5, 1.0)
        draws = draw_features(model, 200_000, torch.Generator().manual_seed(0))
        noise = draws.truth - draws.image @ model.image_map.T - draws.text @ model.text_map.T
        together = torch.cat([draws.image, draws.text, draws.other_image, noise], dim=1).T
        expected = torch.block_diag(model.feature_cov, model.image_cov, 0.25 * torch.eye(2, dtype=torch.float64))
        torch.testing.assert_close(torch.cov(together), expected, rtol=0, atol=0.02)

    def test_truth_is_the_maps_of_the_features_plus_the_generators_noise(self) -> None:
        draws = draw_features(HAND, 7, torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(0)
        *_, noise = (torch.randn(7, width, generator=generator, dtype=torch.float64) for width in (2, 2, 1))
        torch.testing.assert_close(draws.truth, 2 * draws.image + draws.text + 0.5 * noise)

    @given(seed=SEEDS)
    @few
    def test_a_feature_may_be_a_copy_of_another(self, seed: int) -> None:
        model = replace(HAND, feature_cov=torch.ones(2, 2, dtype=torch.float64))
        draws = draw_features(model, 10, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(draws.image, draws.text, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("policy_image_map", torch.zeros(1, 2, dtype=torch.float64)),
        ("policy_text_map", torch.zeros(2, 1, dtype=torch.float64)),
        ("verifier_map", torch.zeros(2, 1, dtype=torch.float64)),
        ("feature_cov", torch.eye(3, dtype=torch.float64)),
        ("feature_cov", torch.tensor([[1.0, 0.5], [0.4, 1.0]], dtype=torch.float64)),
        ("feature_cov", torch.tensor([[1.0, 1.5], [1.5, 1.0]], dtype=torch.float64)),
        ("noise_std", -1.0),
        ("policy_std", 0.0),
    ],
)
def test_a_model_that_is_none_is_refused_by_name(name: str, value: object, as_in_production: None) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        replace(HAND, **{name: value})


def test_a_covariance_may_be_zero_and_off_by_rounding_of_its_largest_eigenvalue() -> None:
    model = any_model(0, 2, 1, 2, 0.5, 1.0)
    replace(model, feature_cov=torch.zeros(3, 3, dtype=torch.float64))
    for lowest, refused in ((-0.5, False), (-2.0, True)):
        covariance = torch.diag(torch.tensor([1e6, 1.0, lowest], dtype=torch.float64))
        if refused:
            with pytest.raises(ValueError, match="lowest eigenvalue is -2"):
                replace(model, feature_cov=covariance)
        else:
            replace(model, feature_cov=covariance)
