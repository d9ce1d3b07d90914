"""Estimators of KL(policy ‖ reference) from sampled tokens, and the controller of its weight."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"], estimator: Estimator
) -> Float[Tensor, "*shape"]:
    """Per-token estimate in nats of KL(π ‖ π_ref) from tokens sampled from π.

    With d = log π(y) − log π_ref(y):  k1 = d,  k2 = d²/2,  k3 = exp(−d) − 1 + d.  k1 and k3 are unbiased as values;
    only k2 has, differentiated as a loss, the gradient of the KL.

    Raises:
        ValueError: If the shapes differ or the estimator is unknown.

    Source: Schulman, "Approximating KL divergence" (2020), http://joschu.net/blog/kl-approx.html
    """
    if logprobs.shape != ref_logprobs.shape:
        raise ValueError(
            f"kl_estimate: logprobs {tuple(logprobs.shape)} and ref_logprobs {tuple(ref_logprobs.shape)} differ"
        )
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference**2
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f"kl_estimate: estimator must be k1, k2 or k3, got {estimator!r}")


def adapted_kl_coef(kl_coef: float, observed_nats: float, target_nats: float, horizon: float, step: float) -> float:
    """The next KL weight: raised while the observed KL per response is above its target, lowered below it.

    β ← β · (1 + clip(observed/target − 1, −0.2, 0.2) · step/horizon)

    Raises:
        ValueError: If the target or the horizon is not positive, or a step so long that β could fall to zero or below.

    Source: Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (arXiv 1909.08593), section 2.2.
    """
    if target_nats <= 0 or horizon <= 0:
        raise ValueError(f"adapted_kl_coef: target_nats {target_nats} and horizon {horizon} must be positive")
    if not 0 <= step < 5 * horizon:
        raise ValueError(f"adapted_kl_coef: step {step} must lie in [0, 5 * horizon), horizon {horizon}")
    error = min(max(observed_nats / target_nats - 1, -0.2), 0.2)
    return kl_coef * (1 + error * step / horizon)
