"""The linear-Gaussian model once more, in NumPy and without its algebra, to compare the closed forms with.

Every random number in a draw is standard normal and the error of a response is linear in all of them. So the expected
squared error is the sum, over the random numbers, of the squared error that one of them causes alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray


def expected_loss(maps: dict[str, Array], spreads: dict[str, float], vision_weight: float, relevance: float) -> float:
    """E‖y − y*‖² by unit vectors through the generative story; `spreads`: noise, policy, kl_coef, self_weight."""
    d, i = maps["image_map"].shape
    n = len(maps["feature_cov"])
    total = 0.0
    for unit in np.eye(2 * n + 2 * d):
        features, others, noise, sampling = np.split(unit, [n, 2 * n, 2 * n + d])
        total += float(
            (_error(maps, spreads, vision_weight, relevance, features, others, noise, sampling, i) ** 2).sum()
        )
    return total


def moments(maps: dict[str, Array]) -> tuple[float, float, float]:
    """E‖y* − ε − m₀‖², E⟨y* − m₀, C x_v⟩ and E‖C x_v‖², as sums over the unit vectors behind the features."""
    i = maps["image_map"].shape[1]
    root = np.linalg.cholesky(maps["feature_cov"])
    bias = missed_and_seen = power = 0.0
    for unit in np.eye(len(root)):
        image, text = np.split(root @ unit, [i])
        truth = maps["image_map"] @ image + maps["text_map"] @ text
        missed = truth - maps["policy_image_map"] @ image - maps["policy_text_map"] @ text
        seen = maps["verifier_map"] @ image
        bias, missed_and_seen, power = bias + missed @ missed, missed_and_seen + missed @ seen, power + seen @ seen
    return float(bias), float(missed_and_seen), float(power)


def _error(
    maps: dict[str, Array], spreads: dict[str, float], vision_weight: float, relevance: float, *parts: Any
) -> Array:
    features, others, noise, sampling, i = parts
    root = np.linalg.cholesky(maps["feature_cov"])
    image, text = np.split(root @ features, [i])
    other_image = (root @ others)[:i]
    truth = maps["image_map"] @ image + maps["text_map"] @ text + spreads["noise"] * noise
    untuned = maps["policy_image_map"] @ image + maps["policy_text_map"] @ text
    feedback = maps["verifier_map"] @ (relevance * image + np.sqrt(1 - relevance**2) * other_image)
    mean, std = tilted_normal(untuned, feedback, vision_weight=vision_weight, **_without_noise(spreads))
    return mean + std * sampling - truth


def _without_noise(spreads: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in spreads.items() if name != "noise"}


def tilted_normal(
    untuned: Array, feedback: Array, policy: float, kl_coef: float, self_weight: float, vision_weight: float
) -> tuple[Array, float]:
    """Mean and standard deviation of the policy that maximises E[r] − β KL, from the stationary points of

    J(m, s) = α (−‖m − m₀‖² − d s²)/(2τ²) + λ⟨m, f⟩ − β (‖m − m₀‖² + d s²)/(2τ²) + β d log s.
    """
    pull = (self_weight + kl_coef) / policy**2
    return untuned + vision_weight * feedback / pull, float(np.sqrt(kl_coef / pull))


def regularised_reward(
    mean: Array,
    std: float,
    untuned: Array,
    feedback: Array,
    policy: float,
    kl_coef: float,
    self_weight: float,
    vision_weight: float,
) -> float:
    """E[r] − β KL(N(mean, std²) ‖ N(untuned, policy²)), the objective itself, up to a constant."""
    d = len(mean)
    square = float(((mean - untuned) ** 2).sum()) + d * std**2
    reward = -self_weight * square / (2 * policy**2) + vision_weight * float(mean @ feedback)
    kl = square / (2 * policy**2) - d / 2 + d * float(np.log(policy / std))
    return reward - kl_coef * kl
