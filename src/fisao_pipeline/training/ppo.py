"""One PPO round over a batch of rollouts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from fisao_pipeline.method.advantages import (
    batch_baseline,
    charge_unlikely,
    gae,
    group_baseline,
    normalise_advantages,
    penalised_rewards,
    returns_to_go,
)
from fisao_pipeline.method.importance import importance_numbers, truncated_importance_weights
from fisao_pipeline.method.kl import adapted_kl_coef
from fisao_pipeline.method.losses import clipped_policy_loss, clipped_value_loss, kl_loss
from fisao_pipeline.models.halving import HalvingSize
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.params.policy_training import PPOParams
from fisao_pipeline.training.learning import (
    Learner,
    RoundData,
    StepTaken,
    clipped_step,
    micro_batch,
    shuffled_batches,
    step_means,
)
from fisao_pipeline.training.rollouts import RolloutBatch
from fisao_pipeline.training.scoring import (
    Scores,
    check_sampler,
    micro_batches,
    recomputed_logprobs,
    sampled_numbers,
    score_part,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredRollouts:
    """What one round learns from: rollouts with logprobs, values, advantages and returns, all [b, t].

    β of the round is in one of two places, the other is 0: ``reward_kl_coef``, already in advantages and returns, or
    ``loss_kl_coef``, still to come as a loss.

    ``importance_cap`` is None where the policy itself drew the rollouts; else the policy loss weighs each token by
    ``method.importance``, capped at it.
    """

    rollouts: RolloutBatch
    old_logprobs: Float[Tensor, "b t"]
    ref_logprobs: Float[Tensor, "b t"]
    old_values: Float[Tensor, "b t"]
    advantages: Float[Tensor, "b t"]
    returns: Float[Tensor, "b t"]
    reward_kl_coef: float
    loss_kl_coef: float
    importance_cap: float | None = None


@torch.no_grad()
def score_rollouts(
    policy: Policy,
    rollouts: RolloutBatch,
    open_image: ImageOpener,
    temperature: float,
    params: PPOParams,
    kl_coef: float,
    micro: HalvingSize | None = None,
) -> ScoredRollouts:
    """Logprobs of policy and reference, rewards (KL-penalised with ``params.kl_penalty`` `reward`), advantages.

    Logprobs are computed again with the very code that the update uses, so that the first ratio is 1; where the policy
    samples itself, logprobs that differ by more than ``params.logprob_tolerance`` are reported. ``micro`` keeps the
    size of micro-batches from round to round, should memory run out; None starts from the parameters.

    Raises:
        ValueError: If they differ by more than ``FOREIGN_GAP_NATS`` in the mean: the responses are another policy's.
    """
    micro = micro or micro_batch(params, "ppo")
    scores = recomputed_logprobs(policy, rollouts, open_image, temperature, micro)
    return with_advantages(rollouts, scores, params, kl_coef, policy.samples_itself)


@torch.no_grad()
def with_advantages(
    rollouts: RolloutBatch, scores: Scores, params: PPOParams, kl_coef: float, samples_itself: bool = True
) -> ScoredRollouts:
    """As ``score_rollouts``, from what was scored before; ``samples_itself`` unless another engine drew them."""
    old, ref, values = scores
    mask = rollouts.completion_mask
    check_sampler(rollouts, old, params.logprob_tolerance if samples_itself else None)
    reward_kl, loss_kl = (kl_coef, 0.0) if params.kl_penalty == "reward" else (0.0, kl_coef)
    rewards = penalised_rewards(rollouts.token_rewards, old, ref, mask, reward_kl)
    rewards = charge_unlikely(rewards, ref, mask, params.unlikely_below, params.unlikely_cost)
    if params.advantage == "gae":
        advantages, returns = gae(rewards, values, mask, params.gamma, params.gae_lambda)
    else:
        returns = returns_to_go(rewards, mask, params.gamma)
        of_group = params.advantage == "group"
        baseline = group_baseline(returns, rollouts.group_size) if of_group else batch_baseline(returns, mask)
        advantages = torch.where(mask, returns - baseline, 0.0)
    if params.normalise_advantages:
        advantages = normalise_advantages(advantages, mask)
    cap = None if samples_itself else params.importance_cap
    return ScoredRollouts(rollouts, old, ref, values, advantages, returns, reward_kl, loss_kl, cap)


def ppo_round(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    scored: ScoredRollouts,
    open_image: ImageOpener,
    temperature: float,
    params: PPOParams,
    seed: int,
    on_step: Callable[[dict[str, float]], None] | None = None,
    micro: HalvingSize | None = None,
    taken: Sequence[dict[str, float]] = (),
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
        micro: Size of micro-batches, which keeps what is left of it when memory runs out: the step is then gathered
            again, from no gradient at all, on the same rollouts. None starts from the parameters.
        taken: Numbers of the round's first steps where these were taken before.

    Returns:
        Means over the round's steps: policy_loss, value_loss, kl_loss (β times k2, 0 where β is in the reward),
        clip_fraction, approx_kl (nats per token), ratio_mean,
        grad_norm; updates (steps taken) and stopped_early (0 or 1).
    """
    micro = micro or micro_batch(params, "ppo")
    groups, rollouts = scored.rollouts.groups, len(scored.rollouts)
    batches = shuffled_batches(groups, params.epochs, max(1, params.batch_size * len(groups) // rollouts), seed)
    steps = list(taken)
    done = sum(len(group) for part in batches[: len(steps)] for group in part)
    total = params.epochs * rollouts
    with tqdm(total=total, initial=done, desc="updating", unit="response", leave=False) as progress:
        for part in batches[len(steps) :]:
            if _moved_too_far(steps, params):
                break
            step = _update(policy, optimizer, scored, part, open_image, temperature, params, micro)
            steps.append(step)
            if on_step is not None:
                on_step(step)
            progress.update(sum(map(len, part)))
            progress.set_postfix(loss=f"{step['policy_loss']:.3f}", kl=f"{step['approx_kl']:.4f}")
    return {**step_means(steps), "stopped_early": float(_moved_too_far(steps, params))}


def _moved_too_far(steps: Sequence[dict[str, float]], params: PPOParams) -> bool:
    limit = params.max_round_kl_nats
    return limit is not None and bool(steps) and steps[-1]["approx_kl"] > limit


def _update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    scored: ScoredRollouts,
    groups: list[range],
    open_image: ImageOpener,
    temperature: float,
    params: PPOParams,
    micro: HalvingSize,
) -> dict[str, float]:
    total = int(scored.rollouts.completion_mask[[row for group in groups for row in group]].sum())

    def gather(size: int) -> dict[str, float]:
        sums: dict[str, float] = {}
        optimizer.zero_grad()
        for part in micro_batches(scored.rollouts, groups, size):
            tokens = int(scored.rollouts.completion_mask[part].sum())
            loss, numbers = _micro_batch_loss(policy, scored, part, open_image, temperature, params)
            (loss * tokens / total).backward()
            for key, value in numbers.items():
                sums[key] = sums.get(key, 0.0) + value * tokens / total
        return sums

    # The step itself is not repeated: half a step of Adam cannot be taken back.
    sums = micro.run(gather)
    norm = clipped_step(policy, optimizer, params.max_grad_norm, "ppo")
    return {**sums, "grad_norm": norm}


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
    weights = None
    if scored.importance_cap is not None:
        weights = truncated_importance_weights(old, part.sampled_logprobs, mask, scored.importance_cap)
    policy_loss = clipped_policy_loss(logprobs, old, advantages, mask, params.clip_range, weights)
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


def rollout_numbers(scored: ScoredRollouts) -> dict[str, float]:
    """``scoring.sampled_numbers`` of a round's rollouts, and ``kl_penalty``.

    That is what the reward was charged for the KL (k1), 0 where the KL is a loss (then see a step's ``kl_loss``). Where
    another engine drew them, ``importance_numbers`` too.
    """
    rollouts = scored.rollouts
    numbers = sampled_numbers(rollouts, scored.old_logprobs, scored.ref_logprobs)
    if scored.importance_cap is not None:
        drawn = (scored.old_logprobs, rollouts.sampled_logprobs, rollouts.completion_mask)
        numbers |= importance_numbers(*drawn, scored.importance_cap)
    return {**numbers, "kl_penalty": scored.reward_kl_coef * numbers["kl"]}


def report_equal_rewards(data: RoundData) -> None:
    """Say so where all responses of a round earn the same: their advantages are then noise of the value function."""
    totals = data.rollouts.token_rewards.sum(dim=1)
    if len(totals) > 1 and bool((totals == totals[0]).all()):
        logger.warning(
            "policy_training: all %d responses of round %d earn the same reward (%g), so that there is nothing to "
            "prefer. See reward_annotation.rule, .margin and .vocabulary, and response_sampling.temperature.",
            len(totals),
            data.index,
            float(totals[0]),
        )


class PPOLearner(Learner):
    """Token-level PPO: the method."""

    trainer = "ppo"
    params: PPOParams

    def __init__(self, policy: Policy, open_image: ImageOpener, temperature: float, params: PPOParams, rounds: int):
        """Give the policy a value head where advantages need one, and prepare the optimiser; see ``Learner``."""
        if params.advantage == "gae":
            policy.add_value_head(params.value_width)
        super().__init__(policy, open_image, temperature, params, rounds, params.value_learning_rate)
        self.kl_coef = params.kl_coef

    def learn(self, data: RoundData, on_step: StepTaken) -> dict[str, float]:
        """As any learner; steers the KL weight after the round where it has a target."""
        row = {**super().learn(data, on_step), "kl_coef": self.kl_coef}
        target = self.params.kl_target_nats
        if target is not None:
            self.kl_coef = adapted_kl_coef(self.kl_coef, row["kl"], target, horizon=1.0, step=1.0)
        return row

    def _take_steps(
        self, data: RoundData, scores: Scores, taken: Sequence[dict[str, float]], on_step: StepTaken
    ) -> dict[str, float]:
        report_equal_rewards(data)
        scored = with_advantages(data.rollouts, scores, self.params, self.kl_coef, self.policy.samples_itself)
        fixed = (self.open_image, self.temperature, self.params)
        steps = ppo_round(self.policy, self.optimizer, scored, *fixed, data.seed, on_step, self.micro, taken)
        return {**rollout_numbers(scored), **steps}

    def values(self) -> dict[str, Any]:
        """The KL weight too."""
        return {**super().values(), "kl_coef": self.kl_coef}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """The KL weight too."""
        super().restore(tensors, values)
        self.kl_coef = values["kl_coef"]
