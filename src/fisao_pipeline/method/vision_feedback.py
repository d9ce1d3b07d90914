"""Why vision feedback helps: in the model of `linear_gaussian`, the claim of Theorem 3.1 is a quadratic in λ.

The claim is the paper's, the model, conditions and proof are ours. The policy is tuned by a KL penalty against a reward
of its own preference and λ times the vision feedback, an inner product (a cosine would leave no normal policy):

    vision feedback   S(y) = ⟨y, C x'⟩,   x' = ρ x_v + √(1 − ρ²) z,   z the features of another, independent image
    reward            r(y) = α log π₀(y | x) + λ S(y)
    tuned policy      π_λ = argmax E_π[r] − β KL(π ‖ π₀) = N(m₀ + λκ C x', τ² β/(α + β) I),   κ = τ²/(α + β)

With c = E⟨y* − m₀, C x_v⟩, what the policy misses and the verifier sees, and q = E‖C x_v‖², the expected loss is

    L(λ) = E‖y − y*‖² = L(0) − 2κρc λ + κ²q λ²

so that some λ > 0 lowers it if and only if ρc > 0: then exactly those with 0 < λ < 2λ°, most of all λ° = ρc/(κq), by
ρ²c²/q. Feedback from other images (ρ = 0, the control) lowers it for no λ.

In code λ is ``vision_weight`` (not the margin of the token rewards), ρ ``relevance``, α ``self_weight``, β ``kl_coef``.
Shapes: ``k`` vision weights, the others as in `linear_gaussian`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fisao_pipeline.method.linear_gaussian import (
    LinearGaussianModel,
    draw_features,
    feedback_power,
    missed_and_seen,
    policy_bias,
)


@dataclass(frozen=True)
class Tuning:
    """What the reward pays and what holds the policy back; FiSAO, paid by vision alone, has α = ``self_weight`` = 0.

    Raises:
        ValueError: If β is not positive or α is negative.
    """

    kl_coef: float
    self_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.kl_coef <= 0 or self.self_weight < 0:
            raise ValueError(f"kl_coef {self.kl_coef} must be > 0 and self_weight {self.self_weight} ≥ 0")


class LossEstimate(NamedTuple):
    """Mean squared distance over samples, and the standard error of that mean, for each vision weight."""

    mean: Float[Tensor, " k"]
    standard_error: Float[Tensor, " k"]


def tuned_policy_mean(
    model: LinearGaussianModel,
    image: Float[Tensor, "b i"],
    text: Float[Tensor, "b p"],
    feedback_image: Float[Tensor, "b i"],
    vision_weight: float,
    tuning: Tuning,
) -> Float[Tensor, "b d"]:
    """Mean of π_λ = argmax E_π[r] − β KL(π ‖ π₀) ∝ π₀ exp(r/β):  m₀ + λ τ²/(α + β) · C x'."""
    untuned = image @ model.policy_image_map.T + text @ model.policy_text_map.T
    return untuned + vision_weight * _gain(model, tuning) * feedback_image @ model.verifier_map.T


def tuned_policy_std(model: LinearGaussianModel, tuning: Tuning) -> float:
    """Standard deviation of every response feature under π_λ:  τ √(β/(α + β)); λ moves the mean only."""
    return model.policy_std * math.sqrt(tuning.kl_coef / (tuning.kl_coef + tuning.self_weight))


def expected_loss(
    model: LinearGaussianModel, vision_weights: Float[Tensor, " k"], tuning: Tuning, relevance: float = 1.0
) -> Float[Tensor, " k"]:
    """E‖y − y*‖² of responses y of the tuned policy, for each vision weight λ.

    L(λ) = tr(D Σ Dᵀ) + d (σ² + τ² β/(α + β)) − 2κρc λ + κ²q λ²,   D = [A − W, B − V] [d, n]

    Raises:
        ValueError: If the relevance is not in [0, 1].
    """
    _require_relevance(relevance)
    spread = len(model.image_map) * (model.noise_std**2 + tuned_policy_std(model, tuning) ** 2)
    step = vision_weights * _gain(model, tuning)
    return policy_bias(model) + spread - 2 * relevance * missed_and_seen(model) * step + feedback_power(model) * step**2


def loss_slope_at_zero(model: LinearGaussianModel, tuning: Tuning, relevance: float = 1.0) -> Float[Tensor, ""]:
    """dL/dλ at λ = 0:  −2κρc; negative if and only if some λ > 0 lowers the loss.

    Raises:
        ValueError: If the relevance is not in [0, 1].
    """
    _require_relevance(relevance)
    # A difference, as the control would otherwise print −0.
    return 0.0 - 2 * _gain(model, tuning) * relevance * missed_and_seen(model)


def best_vision_weight(model: LinearGaussianModel, tuning: Tuning, relevance: float = 1.0) -> Float[Tensor, ""]:
    """The λ ≥ 0 of the lowest loss:  λ° = max(0, ρc/(κq)); any λ in (0, 2λ°) beats λ = 0, and λ° by ρ²c²/q.

    Raises:
        ValueError: If the relevance is not in [0, 1] or the verifier is blind (q = 0): then λ changes nothing.
    """
    _require_relevance(relevance)
    power = feedback_power(model)
    if not power > 0:
        raise ValueError("verifier_map times the image features is zero: the feedback is constant and no λ is best")
    return (relevance * missed_and_seen(model) / (_gain(model, tuning) * power)).clamp(min=0)


def simulated_loss(
    model: LinearGaussianModel,
    vision_weights: Float[Tensor, " k"],
    tuning: Tuning,
    samples: int,
    generator: torch.Generator,
    relevance: float = 1.0,
) -> LossEstimate:
    """Monte-Carlo estimate of `expected_loss`: features, truth and response are drawn anew for each vision weight.

    Raises:
        ValueError: If there are fewer than two samples or the relevance is not in [0, 1].
    """
    _require_relevance(relevance)
    if samples < 2:
        raise ValueError(f"samples must be at least 2 for a standard error, got {samples}")
    losses = [_draw_losses(model, weight, tuning, samples, generator, relevance) for weight in vision_weights.tolist()]
    each = torch.stack(losses)
    return LossEstimate(each.mean(dim=1), each.std(dim=1) / math.sqrt(samples))


def _draw_losses(
    model: LinearGaussianModel,
    vision_weight: float,
    tuning: Tuning,
    samples: int,
    generator: torch.Generator,
    relevance: float,
) -> Float[Tensor, " b"]:
    image, text, other_image, truth = draw_features(model, samples, generator)
    feedback_image = relevance * image + math.sqrt(1 - relevance**2) * other_image
    mean = tuned_policy_mean(model, image, text, feedback_image, vision_weight, tuning)
    noise = torch.randn(truth.shape, generator=generator, dtype=truth.dtype)
    return ((mean + tuned_policy_std(model, tuning) * noise - truth) ** 2).sum(dim=1)


def _gain(model: LinearGaussianModel, tuning: Tuning) -> float:
    """κ = τ²/(α + β): how far a unit of reward moves the policy."""
    return model.policy_std**2 / (tuning.kl_coef + tuning.self_weight)


def _require_relevance(relevance: float) -> None:
    if not 0 <= relevance <= 1:
        raise ValueError(f"relevance must lie in [0, 1], got {relevance}")
