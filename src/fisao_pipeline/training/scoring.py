"""Rollouts under policy and reference: logprobs, values, and what a round's rollouts look like; for every trainer."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fisao_pipeline.method.kl import kl_estimate
from fisao_pipeline.method.masking import masked_mean
from fisao_pipeline.models.halving import HalvingSize
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.training.rollouts import RolloutBatch

logger = logging.getLogger(__name__)

# Mean over tokens; no precision explains as much, so the responses are not this policy's.
FOREIGN_GAP_NATS = 1.0


class Scores(NamedTuple):
    """What a round's rollouts are under the policy as it is before the first step; all zero off the mask.

    Attributes:
        old_logprobs: log π of each token, nats.
        ref_logprobs: The same under the reference.
        values: Of the value head, in reward units; zero without one.
    """

    old_logprobs: Float[Tensor, "b t"]
    ref_logprobs: Float[Tensor, "b t"]
    values: Float[Tensor, "b t"]


@torch.no_grad()
def recomputed_logprobs(
    policy: Policy, rollouts: RolloutBatch, open_image: ImageOpener, temperature: float, micro: HalvingSize | int
) -> Scores:
    """Logprobs under the policy as it is now and under the reference, and values.

    Where memory runs out, all of it is computed again with half of ``micro``.
    """
    if isinstance(micro, int):
        micro = HalvingSize(micro, "micro_batch_size", "Logprobs are the same but for rounding.", "")

    def score(size: int) -> Scores:
        old, ref, values = (torch.zeros_like(rollouts.sampled_logprobs) for _ in range(3))
        for rows in micro_batches(rollouts, rollouts.groups, size):
            part = rollouts.rows(rows)
            old_part, values_part = score_part(policy, part, open_image, temperature)
            ref_part, _ = score_part(policy, part, open_image, temperature, reference=True)
            width = part.completion_ids.shape[1]
            old[rows, :width], values[rows, :width], ref[rows, :width] = old_part, values_part, ref_part
        return Scores(old, ref, values)

    return micro.run(score)


def micro_batches(rollouts: RolloutBatch, groups: list[range], size: int) -> list[list[int]]:
    """Rows of whole groups, at most ``size`` at a time, groups of similar length together: less is padding then.

    A group larger than that comes in pieces, as few and as equal as can be, each behind a copy of its prompt.
    """
    lengths = rollouts.completion_mask.sum(dim=1).tolist()
    pieces = [piece for group in groups for piece in _pieces(group, size)]
    ordered = sorted(pieces, key=lambda group: sum(lengths[row] for row in group))
    batches: list[list[int]] = []
    for group in ordered:
        if not batches or len(batches[-1]) + len(group) > size:
            batches.append([])
        batches[-1] += group
    return batches


def _pieces(group: range, size: int) -> list[range]:
    count = -(-len(group) // size)
    bounds = [len(group) * number // count for number in range(count + 1)]
    return [group[start:end] for start, end in pairwise(bounds)]


def score_part(
    policy: Policy, part: RolloutBatch, open_image: ImageOpener, temperature: float, reference: bool = False
) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
    """Logprobs and values of some rollouts; those of one prompt share its computation."""
    texts, image_ids, prompt_of_row = part.unique_prompts()
    prompts = policy.encode(texts, image_ids, open_image)
    return policy.score(
        prompts, part.completion_ids, part.completion_mask, temperature, reference, prompt_of_row=prompt_of_row
    )


def sampled_numbers(
    rollouts: RolloutBatch, old_logprobs: Float[Tensor, "b t"], ref_logprobs: Float[Tensor, "b t"]
) -> dict[str, float]:
    """What a round's rollouts look like: reward and KL per response, length, and the gap to the sampler's logprobs.

    ``kl`` (k1) is the KL that PPO's reward penalises; ``kl_k3`` estimates the same with less noise and is never
    negative.
    """
    mask = rollouts.completion_mask
    per_response = mask.sum() / len(rollouts)
    means = {
        name: float(masked_mean(values, mask) * per_response)
        for name, values in {
            "token_reward": rollouts.token_rewards,
            "kl": kl_estimate(old_logprobs, ref_logprobs, "k1"),
            "kl_k3": kl_estimate(old_logprobs, ref_logprobs, "k3"),
            "entropy_estimate": -old_logprobs,
        }.items()
    }
    return {
        **means,
        "response_tokens": float(per_response),
        "logprob_gap": float(sampler_gaps(rollouts, old_logprobs).max()),
    }


def sampler_gaps(rollouts: RolloutBatch, old_logprobs: Float[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """Differences in nats between recomputed logprobs and those that the sampler recorded, zero off the mask."""
    return torch.where(rollouts.completion_mask, old_logprobs - rollouts.sampled_logprobs, 0.0).abs()


def check_sampler(rollouts: RolloutBatch, old_logprobs: Float[Tensor, "b t"], tolerance: float | None) -> None:
    """Report a sampler whose logprobs differ from the recomputed ones by more than ``tolerance`` nats.

    None reports nothing: another engine's differ by its nature, and the history says by how much.

    Raises:
        ValueError: If they differ by more than ``FOREIGN_GAP_NATS`` in the mean: the responses are another policy's.
    """
    gaps = sampler_gaps(rollouts, old_logprobs)
    mean, gap = float(masked_mean(gaps, rollouts.completion_mask)), gaps.max()
    if mean > FOREIGN_GAP_NATS:
        raise ValueError(
            f"policy_training: the sampler's logprobs differ from the trainer's by {mean:.2f} nats in the mean over "
            "tokens: the responses are not this policy's. Make them anew with `kedro run "
            "--pipelines=response_sampling,reward_annotation,policy_training`"
        )
    if tolerance is not None and gap > tolerance:
        logger.warning(
            "The sampler's logprobs differ from the trainer's by up to %.4f nats (tolerance %.4f): the responses "
            "come from another policy (re-run response_sampling), or the two compute in different precision (raise "
            "policy_training.ppo.logprob_tolerance).",
            float(gap),
            tolerance,
        )
