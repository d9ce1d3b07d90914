"""Weights that undo, in part, that responses were drawn by an engine which is not quite the policy that learns."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fisao_pipeline.method.kl import kl_estimate
from fisao_pipeline.method.masking import masked_mean, require_same_shape


def truncated_importance_weights(
    old_logprobs: Float[Tensor, "b t"],
    sampler_logprobs: Float[Tensor, "b t"],
    completion_mask: Bool[Tensor, "b t"],
    cap: float,
) -> Float[Tensor, "b t"]:
    """How much more probable a token is to the policy than to the engine that drew it, at most ``cap``.

    w_t = min(exp(log π_old(y_t) − log μ(y_t)), C)

    An engine with kernels of its own draws from μ, and the trainer takes y for a sample of π_old. E_μ[w f] = E_π[f]
    without the cap; with it the variance is bounded, and what is left of the bias falls on tokens that the engine
    draws too seldom. The weights are constants: no gradient passes.

    Args:
        old_logprobs: log π_old(y_t) by the trainer, nats.
        sampler_logprobs: log μ(y_t) by the engine, nats.
        completion_mask: True on sampled tokens.
        cap: C, at least 1.

    Returns:
        Weights, zero off the completion.

    Raises:
        ValueError: If shapes differ or the cap is below 1.

    Source: Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025),
    https://fengyao.notion.site/off-policy-rl; the truncation is Ionides (2008).
    """
    require_same_shape(
        "truncated_importance_weights",
        old_logprobs=old_logprobs,
        sampler_logprobs=sampler_logprobs,
        completion_mask=completion_mask,
    )
    if cap < 1:
        raise ValueError(f"truncated_importance_weights: cap must be at least 1, got {cap}")
    difference = torch.where(completion_mask, old_logprobs - sampler_logprobs, 0.0).detach()
    # Capped before the exponential, which would overflow.
    return torch.where(completion_mask, difference.clamp(max=math.log(cap)).exp(), 0.0)


def importance_numbers(
    old_logprobs: Float[Tensor, "b t"],
    sampler_logprobs: Float[Tensor, "b t"],
    completion_mask: Bool[Tensor, "b t"],
    cap: float,
) -> dict[str, float]:
    """What to watch: the mean weight, the share of tokens at the cap, and KL(μ ‖ π_old) in nats per token (k3).

    Raises:
        ValueError: As ``truncated_importance_weights``, or if no token counts.
    """
    weights = truncated_importance_weights(old_logprobs, sampler_logprobs, completion_mask, cap)
    above = (old_logprobs - sampler_logprobs > math.log(cap)).float()
    return {
        "importance_mean": float(masked_mean(weights, completion_mask)),
        "importance_truncated": float(masked_mean(above, completion_mask)),
        "sampler_kl": float(masked_mean(kl_estimate(sampler_logprobs, old_logprobs, "k3"), completion_mask)),
    }
