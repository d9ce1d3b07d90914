"""PPO's two losses and the KL as a third, over completion tokens only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fisao_pipeline.method.kl import kl_estimate
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
    weights: Float[Tensor, "b t"] | None = None,
) -> PolicyLoss:
    """PPO's clipped surrogate, a mean over the tokens of the batch.

    ratio_t = exp(log π(y_t) − log π_old(y_t))
    loss    = − mean_t w_t · min(ratio_t · A_t, clip(ratio_t, 1 − ε, 1 + ε) · A_t)

    ``approx_kl`` estimates KL(π_old ‖ π) by k3; ``clip_fraction`` is the share of tokens whose ratio left the range.
    w are constant ``weights``, those of ``method.importance`` where another engine drew the tokens; None is 1.

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
        **({} if weights is None else {"weights": weights}),
    )
    if clip_range <= 0:
        raise ValueError(f"clipped_policy_loss: clip_range must be positive, got {clip_range}")
    log_ratio = torch.where(completion_mask, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    objective = torch.minimum(ratio * advantages, clipped * advantages)
    if weights is not None:
        objective = weights * objective
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


def kl_loss(
    logprobs: Float[Tensor, "b t"],
    ref_logprobs: Float[Tensor, "b t"],
    completion_mask: Bool[Tensor, "b t"],
    kl_coef: float,
) -> Float[Tensor, ""]:
    """KL(π ‖ π_ref) as a term of the loss, a mean over the tokens of the batch, in nats times β.

    loss = β · mean_t k2_t,   k2_t = ½ (log π(y_t) − log π_ref(y_t))²

    Why k2, which is biased as a value: a sampled token is a constant to autograd, so what a loss f(y_t) teaches is
    E_{y~π}[∇f], not ∇E_{y~π}[f]. The KL of one step is E_π[d] with d = log π − log π_ref, and its gradient

        ∇ Σ_y π d = Σ_y ∇π · d + Σ_y π ∇log π = Σ_y π d ∇log π + ∇ Σ_y π = E_π[d ∇log π].

    k2 has it: ∇ ½d² = d ∇log π. k1 has none: E_π[∇d] = E_π[∇log π] = 0. k3 = exp(−d) − 1 + d has another one:
    E_π[(1 − π_ref/π) ∇log π] = −Σ_y π_ref ∇log π, that of the reverse divergence KL(π_ref ‖ π).

    It is the gradient of the KL at the prefixes that were sampled, exact for tokens drawn from π itself: at a round's
    first step, nearly so within PPO's clip range. Unlike a penalty in the reward it does not credit a token with the
    KL of the tokens after it.

    Raises:
        ValueError: If shapes differ, β is negative, or no token counts.

    Source: Schulman, "Approximating KL divergence" (2020), for the estimators; the derivation is the one above.
    """
    require_same_shape("kl_loss", logprobs=logprobs, ref_logprobs=ref_logprobs, completion_mask=completion_mask)
    if kl_coef < 0:
        raise ValueError(f"kl_loss: kl_coef must be at least 0, got {kl_coef}")
    # Masked before they are squared: behind the square, the gradient at a masked nan would be 0 * nan.
    logprobs, ref_logprobs = (torch.where(completion_mask, x, 0.0) for x in (logprobs, ref_logprobs))
    return kl_coef * masked_mean(kl_estimate(logprobs, ref_logprobs, "k2"), completion_mask)
