"""One PPO round over a batch of rollouts."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from fisao_pipeline.method.advantages import (
    batch_baseline,
    gae,
    group_baseline,
    normalise_advantages,
    penalised_rewards,
    returns_to_go,
)
from fisao_pipeline.method.kl import kl_estimate
from fisao_pipeline.method.losses import clipped_policy_loss, clipped_value_loss, kl_loss
from fisao_pipeline.method.masking import masked_mean
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.params import PPOParams
from fisao_pipeline.training.rollouts import RolloutBatch
from fisao_pipeline.training.sampling import batched

logger = logging.getLogger(__name__)

# Mean over tokens; no precision explains as much, so the responses are not this policy's.
FOREIGN_GAP_NATS = 1.0


@dataclass(frozen=True)
class ScoredRollouts:
    """What one round learns from: rollouts with logprobs, values, advantages and returns, all [b, t].

    β of the round is in one of two places, the other is 0: ``reward_kl_coef``, already in advantages and returns, or
    ``loss_kl_coef``, still to come as a loss.
    """

    rollouts: RolloutBatch
    old_logprobs: Float[Tensor, "b t"]
    ref_logprobs: Float[Tensor, "b t"]
    old_values: Float[Tensor, "b t"]
    advantages: Float[Tensor, "b t"]
    returns: Float[Tensor, "b t"]
    reward_kl_coef: float
    loss_kl_coef: float


@torch.no_grad()
def score_rollouts(
    policy: Policy,
    rollouts: RolloutBatch,
    open_image: ImageOpener,
    temperature: float,
    params: PPOParams,
    kl_coef: float,
) -> ScoredRollouts:
    """Logprobs of policy and reference, rewards (KL-penalised with ``params.kl_penalty`` `reward`), advantages.

    Logprobs are computed again with the very code that the update uses, so that the first ratio is 1; a sampler whose
    logprobs differ by more than ``params.logprob_tolerance`` is reported.

    Raises:
        ValueError: If they differ by more than ``FOREIGN_GAP_NATS`` in the mean: the responses are another policy's.
    """
    old, ref, values = (torch.zeros_like(rollouts.sampled_logprobs) for _ in range(3))
    for rows in micro_batches(rollouts, rollouts.groups, params.micro_batch_size):
        part = rollouts.rows(rows)
        old_part, values_part = score_part(policy, part, open_image, temperature)
        ref_part, _ = score_part(policy, part, open_image, temperature, reference=True)
        width = part.completion_ids.shape[1]
        old[rows, :width], values[rows, :width], ref[rows, :width] = old_part, values_part, ref_part
    mask = rollouts.completion_mask
    _check_sampler(rollouts, old, params.logprob_tolerance)
    reward_kl, loss_kl = (kl_coef, 0.0) if params.kl_penalty == "reward" else (0.0, kl_coef)
    rewards = penalised_rewards(rollouts.token_rewards, old, ref, mask, reward_kl)
    if params.advantage == "gae":
        advantages, returns = gae(rewards, values, mask, params.gamma, params.gae_lambda)
    else:
        returns = returns_to_go(rewards, mask, params.gamma)
        of_group = params.advantage == "group"
        baseline = group_baseline(returns, rollouts.group_size) if of_group else batch_baseline(returns, mask)
        advantages = torch.where(mask, returns - baseline, 0.0)
    if params.normalise_advantages:
        advantages = normalise_advantages(advantages, mask)
    return ScoredRollouts(rollouts, old, ref, values, advantages, returns, reward_kl, loss_kl)


def ppo_round(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    scored: ScoredRollouts,
    open_image: ImageOpener,
    temperature: float,
    params: PPOParams,
    seed: int,
    on_step: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Take the round's PPO steps; gradients are summed over micro-batches, each token weighing the same.

    Args:
        policy: The model with a trainable adapter.
        optimizer: Of its trainable parameters.
        scored: The round's rollouts.
        open_image: Gives the RGB picture of an id.
        temperature: Divides the logits, as in sampling.
        params: Losses, batch sizes, epochs.
        seed: Of the order of the rollouts.
        on_step: Called after each optimiser step with the numbers of that step.

    Returns:
        Means over the round's steps: policy_loss, value_loss, kl_loss (β times k2, 0 where β is in the reward),
        clip_fraction, approx_kl (nats per token), ratio_mean,
        grad_norm; updates (steps taken) and stopped_early (0 or 1).
    """
    rng = random.Random(seed)
    groups = scored.rollouts.groups
    per_step = max(1, params.batch_size * len(groups) // len(scored.rollouts))
    steps: list[dict[str, float]] = []
    stopped = False
    progress = tqdm(total=params.epochs * len(scored.rollouts), desc="updating", unit="response", leave=False)
    with progress:
        for _ in range(params.epochs):
            order = rng.sample(groups, len(groups))
            for chosen in batched(len(order), per_step):
                part = order[chosen.start : chosen.stop]
                step = _update(policy, optimizer, scored, part, open_image, temperature, params)
                steps.append(step)
                if on_step is not None:
                    on_step(step)
                progress.update(sum(map(len, part)))
                progress.set_postfix(loss=f"{step['policy_loss']:.3f}", kl=f"{step['approx_kl']:.4f}")
                if params.max_round_kl_nats is not None and step["approx_kl"] > params.max_round_kl_nats:
                    stopped = True
                    break
            if stopped:
                break
    means = {key: sum(step[key] for step in steps) / len(steps) for key in steps[0]}
    return {**means, "updates": float(len(steps)), "stopped_early": float(stopped)}


def _update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    scored: ScoredRollouts,
    groups: list[range],
    open_image: ImageOpener,
    temperature: float,
    params: PPOParams,
) -> dict[str, float]:
    total = int(scored.rollouts.completion_mask[[row for group in groups for row in group]].sum())
    sums: dict[str, float] = {}
    optimizer.zero_grad()
    for part in micro_batches(scored.rollouts, groups, params.micro_batch_size):
        tokens = int(scored.rollouts.completion_mask[part].sum())
        loss, numbers = _micro_batch_loss(policy, scored, part, open_image, temperature, params)
        (loss * tokens / total).backward()
        for key, value in numbers.items():
            sums[key] = sums.get(key, 0.0) + value * tokens / total
    norm = torch.nn.utils.clip_grad_norm_(policy.trainable_parameters(), params.max_grad_norm)
    if not torch.isfinite(norm):
        raise FloatingPointError(
            "policy_training: the gradient is NaN or infinite; lower policy_training.ppo.learning_rate, or load the "
            "backbone in float32"
        )
    optimizer.step()
    return {**sums, "grad_norm": float(norm)}


def _micro_batch_loss(
    policy: Policy,
    scored: ScoredRollouts,
    rows: list[int],
    open_image: ImageOpener,
    temperature: float,
    params: PPOParams,
) -> tuple[Tensor, dict[str, float]]:
    part = scored.rollouts.rows(rows)
    width = part.completion_ids.shape[1]
    mask = part.completion_mask
    logprobs, values = score_part(policy, part, open_image, temperature)
    old, ref, advantages, returns, old_values = (
        x[rows][:, :width]
        for x in (scored.old_logprobs, scored.ref_logprobs, scored.advantages, scored.returns, scored.old_values)
    )
    policy_loss = clipped_policy_loss(logprobs, old, advantages, mask, params.clip_range)
    kl_term = kl_loss(logprobs, ref, mask, scored.loss_kl_coef)
    loss, value_loss = policy_loss.loss + kl_term, 0.0
    if policy.value_head is not None:
        value_range = math.inf if params.value_clip_range is None else params.value_clip_range
        value_term = clipped_value_loss(values, old_values, returns, mask, value_range)
        loss, value_loss = loss + params.vf_coef * value_term, float(value_term.detach())
    return loss, {
        "policy_loss": float(policy_loss.loss.detach()),
        "value_loss": value_loss,
        "kl_loss": float(kl_term.detach()),
        "clip_fraction": float(policy_loss.clip_fraction),
        "approx_kl": float(policy_loss.approx_kl),
        "ratio_mean": float(policy_loss.ratio_mean),
    }


def micro_batches(rollouts: RolloutBatch, groups: list[range], size: int) -> list[list[int]]:
    """Rows of whole groups, about ``size`` at a time, groups of similar length together: less is padding then."""
    lengths = rollouts.completion_mask.sum(dim=1).tolist()
    ordered = sorted(groups, key=lambda group: sum(lengths[row] for row in group))
    batches: list[list[int]] = []
    for group in ordered:
        if not batches or len(batches[-1]) + len(group) > size:
            batches.append([])
        batches[-1] += group
    return batches


def score_part(
    policy: Policy, part: RolloutBatch, open_image: ImageOpener, temperature: float, reference: bool = False
) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
    """Logprobs and values of some rollouts; those of one prompt share its computation."""
    texts, image_ids, prompt_of_row = part.unique_prompts()
    prompts = policy.encode(texts, image_ids, open_image)
    return policy.score(
        prompts, part.completion_ids, part.completion_mask, temperature, reference, prompt_of_row=prompt_of_row
    )


def rollout_numbers(scored: ScoredRollouts) -> dict[str, float]:
    """What a round's rollouts look like: reward and KL per response, length, and the gap to the sampler's logprobs.

    ``kl`` (k1) and ``kl_k3`` (less noise, never negative) estimate the KL to the reference, whatever is optimised;
    ``kl_penalty`` is what the reward was charged for it, 0 where the KL is a loss (then see a step's ``kl_loss``).
    """
    mask = scored.rollouts.completion_mask
    per_response = mask.sum() / len(scored.rollouts)
    means = {
        name: float(masked_mean(values, mask) * per_response)
        for name, values in {
            "token_reward": scored.rollouts.token_rewards,
            "kl": kl_estimate(scored.old_logprobs, scored.ref_logprobs, "k1"),
            "kl_k3": kl_estimate(scored.old_logprobs, scored.ref_logprobs, "k3"),
            "entropy_estimate": -scored.old_logprobs,
        }.items()
    }
    gap = torch.where(mask, scored.old_logprobs - scored.rollouts.sampled_logprobs, 0.0).abs().max()
    return {
        **means,
        "kl_penalty": scored.reward_kl_coef * means["kl"],
        "response_tokens": float(per_response),
        "logprob_gap": float(gap),
    }


def _check_sampler(rollouts: RolloutBatch, old_logprobs: Tensor, tolerance: float) -> None:
    gaps = torch.where(rollouts.completion_mask, old_logprobs - rollouts.sampled_logprobs, 0.0).abs()
    mean, gap = float(masked_mean(gaps, rollouts.completion_mask)), gaps.max()
    if mean > FOREIGN_GAP_NATS:
        raise ValueError(
            f"policy_training: the sampler's logprobs differ from the trainer's by {mean:.2f} nats in the mean over "
            "tokens: the responses are not this policy's. Make them anew with `kedro run "
            "--pipelines=response_sampling,reward_annotation,policy_training`"
        )
    if gap > tolerance:
        logger.warning(
            "The sampler's logprobs differ from the trainer's by up to %.4f nats (tolerance %.4f): the responses "
            "come from another policy, or the two compute in different precision.",
            float(gap),
            tolerance,
        )


def anneal(optimizer: torch.optim.Optimizer, params: PPOParams, round_index: int, rounds: int) -> float:
    """Set and return the round's learning rate: linear from ``learning_rate`` to ``anneal_to`` of it."""
    share = round_index / max(1, rounds - 1)
    rate = params.learning_rate * (1 - share * (1 - params.anneal_to))
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
