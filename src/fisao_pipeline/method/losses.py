"""PPO's two losses, over completion tokens only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fisao_pipeline.method.masking import masked_mean, require_same_shape


@dataclass(frozen=True)
class PolicyLoss:
    """The clipped policy loss and what to watch beside it (scalars; KL in nats per token)."""

    loss: Float[Tensor, ""]
    ratio_mean: Float[Tensor, ""]
    clip_fraction: Float[Tensor, ""]
    approx_kl: Float[Tensor, ""]


def clipped_policy_loss(
    logprobs: Float[Tensor, "b t"],
    old_logprobs: Float[Tensor, "b t"],
    advantages: Float[Tensor, "b t"],
    completion_mask: Bool[Tensor, "b t"],
    clip_range: float,
) -> PolicyLoss:
    """PPO's clipped surrogate, a mean over the tokens of the batch.

    ratio_t = exp(log π(y_t) − log π_old(y_t))
    loss    = − mean_t min(ratio_t · A_t, clip(ratio_t, 1 − ε, 1 + ε) · A_t)

    ``approx_kl`` estimates KL(π_old ‖ π) by k3; ``clip_fraction`` is the share of tokens whose ratio left the range.

    Raises:
        ValueError: If shapes differ, the range is not positive, or no token counts.

    Source: Schulman et al., "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), equation 7.
    """
    require_same_shape(
        "clipped_policy_loss",
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        advantages=advantages,
        completion_mask=completion_mask,
    )
    if clip_range <= 0:
        raise ValueError(f"clipped_policy_loss: clip_range must be positive, got {clip_range}")
    log_ratio = torch.where(completion_mask, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    objective = torch.minimum(ratio * advantages, clipped * advantages)
    outside = ((ratio - 1).abs() > clip_range).float()
    with torch.no_grad():
        approx_kl = masked_mean(torch.expm1(log_ratio) - log_ratio, completion_mask)
    return PolicyLoss(
        loss=-masked_mean(objective, completion_mask),
        ratio_mean=masked_mean(ratio.detach(), completion_mask),
        clip_fraction=masked_mean(outside, completion_mask),
        approx_kl=approx_kl,
    )


def clipped_value_loss(
    values: Float[Tensor, "b t"],
    old_values: Float[Tensor, "b t"],
    returns: Float[Tensor, "b t"],
    completion_mask: Bool[Tensor, "b t"],
    clip_range: float,
) -> Float[Tensor, ""]:
    """Half the squared error of the values, which may move by ``clip_range`` at most from those of sampling time.

    loss = ½ · mean_t max((V − R)², (clip(V, V_old − ε, V_old + ε) − R)²)

    Raises:
        ValueError: If shapes differ, the range is not positive, or no token counts.

    Source: OpenAI baselines' PPO2; see "The 37 Implementation Details of PPO", detail 9.
    """
    require_same_shape(
        "clipped_value_loss", values=values, old_values=old_values, returns=returns, completion_mask=completion_mask
    )
    if clip_range <= 0:
        raise ValueError(f"clipped_value_loss: clip_range must be positive, got {clip_range}")
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    # Masked before they are squared: behind the square, the gradient at a masked nan would be 0 * nan.
    error = torch.where(completion_mask, values - returns, 0.0)
    clipped_error = torch.where(completion_mask, clipped - returns, 0.0)
    return 0.5 * masked_mean(torch.maximum(error**2, clipped_error**2), completion_mask)
