"""From rewards to advantages: GAE with a value function, or return-to-go against a baseline without one."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fisao_pipeline.method.masking import masked_mean, masked_std, require_same_shape


def penalised_rewards(
    token_rewards: Float[Tensor, "b t"],
    old_logprobs: Float[Tensor, "b t"],
    ref_logprobs: Float[Tensor, "b t"],
    completion_mask: Bool[Tensor, "b t"],
    kl_coef: float,
) -> Float[Tensor, "b t"]:
    """Token rewards minus the KL penalty, zero off the completion.

    reward_t ← reward_t − β · (log π_old(y_t) − log π_ref(y_t))

    Raises:
        ValueError: If shapes differ.
    """
    require_same_shape(
        "penalised_rewards",
        token_rewards=token_rewards,
        old_logprobs=old_logprobs,
        ref_logprobs=ref_logprobs,
        completion_mask=completion_mask,
    )
    penalty = kl_coef * (old_logprobs - ref_logprobs)
    return torch.where(completion_mask, token_rewards - penalty, 0.0)


def charge_unlikely(
    rewards: Float[Tensor, "b t"],
    ref_logprobs: Float[Tensor, "b t"],
    completion_mask: Bool[Tensor, "b t"],
    floor: float,
    cost: float,
) -> Float[Tensor, "b t"]:
    """Token rewards minus a fine for each token that the reference would hardly say, zero off the completion.

    reward_t ← reward_t − cost · [π_ref(y_t) < floor]

    A false mention costs, and what is no mention is free: a policy learns to spoil the name of a doubtful object
    ("twoicycles", "and a No."), which neither the vocabulary nor CHAIR sees. The KL is a mean and lets such rare tokens
    through; this fine falls on them and on nothing else.

    Args:
        rewards: Of tokens.
        ref_logprobs: log π_ref(y_t), nats, at the temperature of sampling.
        completion_mask: True on sampled tokens.
        floor: Probability below which a token is fined, in (0, 1).
        cost: Fine per token, in reward units; 0 is none.

    Raises:
        ValueError: If shapes differ, the floor is no probability or the cost is negative.

    Source: this project's (docs/deviations.md).
    """
    require_same_shape("charge_unlikely", rewards=rewards, ref_logprobs=ref_logprobs, completion_mask=completion_mask)
    if not 0 < floor < 1:
        raise ValueError(f"charge_unlikely: floor must be between 0 and 1, got {floor}")
    if cost < 0:
        raise ValueError(f"charge_unlikely: cost must be at least 0, got {cost}")
    fined = completion_mask & (ref_logprobs < math.log(floor))
    return torch.where(completion_mask, rewards - cost * fined, 0.0)


def returns_to_go(
    rewards: Float[Tensor, "b t"], completion_mask: Bool[Tensor, "b t"], gamma: float
) -> Float[Tensor, "b t"]:
    """Discounted sum of what is still to come: R_t = r_t + γ · R_{t+1}, zero off the completion.

    Raises:
        ValueError: If shapes differ.
    """
    require_same_shape("returns_to_go", rewards=rewards, completion_mask=completion_mask)
    rewards = torch.where(completion_mask, rewards, 0.0)
    returns = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for step in reversed(range(rewards.shape[1])):
        running = rewards[:, step] + gamma * running
        returns[:, step] = running
    return torch.where(completion_mask, returns, 0.0)


def gae(
    rewards: Float[Tensor, "b t"],
    values: Float[Tensor, "b t"],
    completion_mask: Bool[Tensor, "b t"],
    gamma: float,
    gae_lambda: float,
) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
    """Generalised advantage estimation over the completion; a response ends for good after its last token.

    δ_t = r_t + γ V_{t+1} − V_t,  A_t = δ_t + γλ A_{t+1},  returns = A + V.  λ = 0 is one-step TD; λ = 1 is the
    return-to-go minus the value.

    Returns:
        Advantages and value targets, both zero off the completion.

    Raises:
        ValueError: If shapes differ.

    Source: Schulman et al., "High-Dimensional Continuous Control Using GAE" (arXiv 1506.02438), equation 16.
    """
    require_same_shape("gae", rewards=rewards, values=values, completion_mask=completion_mask)
    rewards = torch.where(completion_mask, rewards, 0.0)
    values = torch.where(completion_mask, values, 0.0)
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(rewards[:, 0])
    for step in reversed(range(rewards.shape[1])):
        delta = rewards[:, step] + gamma * next_value - values[:, step]
        running = delta + gamma * gae_lambda * running
        advantages[:, step] = running
        next_value = values[:, step]
    advantages = torch.where(completion_mask, advantages, 0.0)
    return advantages, torch.where(completion_mask, advantages + values, 0.0)


def batch_baseline(returns: Float[Tensor, "b t"], completion_mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """The mean return-to-go of the batch, the same for every token."""
    return masked_mean(returns, completion_mask).expand_as(returns)


def group_baseline(returns: Float[Tensor, "b t"], group_size: int) -> Float[Tensor, "b t"]:
    """For each token the mean return-to-go at its position of the other responses to the same prompt.

    Rows of a group are adjacent. A response that has ended returns zero from there on and is counted so: the baseline
    of a token may depend on anything but that token, and it stays unbiased.

    Raises:
        ValueError: If a group has one response only (nothing to compare with) or the batch is no whole number of
            groups.
    """
    if group_size < 2:
        raise ValueError(
            f"group_baseline: needs at least 2 responses per prompt, got {group_size}; raise responses_per_prompt or "
            "choose another advantage"
        )
    if returns.shape[0] % group_size:
        raise ValueError(f"group_baseline: {returns.shape[0]} responses are no whole number of groups of {group_size}")
    grouped = returns.unflatten(0, (-1, group_size))
    others = (grouped.sum(dim=1, keepdim=True) - grouped) / (group_size - 1)
    return others.flatten(0, 1)


def normalise_advantages(
    advantages: Float[Tensor, "b t"], completion_mask: Bool[Tensor, "b t"], shift_mean: bool = True
) -> Float[Tensor, "b t"]:
    """Advantages with unit spread over the batch's tokens, centred if ``shift_mean``; zero off the completion.

    A batch whose advantages are all equal teaches nothing and gets zeros (centred) or itself (not centred). Equal means
    within rounding: the mean of equal numbers is off by an ulp, and that ulp divided by itself would be an advantage
    of 1.

    Raises:
        ValueError: If shapes differ or no token counts.
    """
    mean = masked_mean(advantages, completion_mask)
    advantages = torch.where(completion_mask, advantages, mean)
    spread = masked_std(advantages, completion_mask)
    if spread <= 16 * torch.finfo(advantages.dtype).eps * advantages.abs().max():
        scaled = torch.zeros_like(advantages) if shift_mean else advantages
    else:
        scaled = (advantages - mean if shift_mean else advantages) / spread
    return torch.where(completion_mask, scaled, 0.0)
