"""What a trainer is to the loop, and what all trainers do alike: the optimiser, its learning rate and its steps."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fisao_pipeline.models.halving import HalvingSize
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.params import OptimiserParams
from fisao_pipeline.training.rollouts import RolloutBatch
from fisao_pipeline.training.sampling import batched

Item = TypeVar("Item")
StepTaken = Callable[[dict[str, float]], None]
"""Called after each optimiser step with the numbers of that step."""


@dataclass(frozen=True)
class RoundData:
    """What a round learns from.

    Attributes:
        index: Of the round, from 0.
        seed: Of the round's own randomness, the order of the rollouts for instance.
        responses: Rows of the ``responses`` table, one a rollout and in their order.
        rollouts: The same as tensors, with token rewards.
    """

    index: int
    seed: int
    responses: pd.DataFrame
    rollouts: RolloutBatch


class Learner(Protocol):
    """A trainer's part of the loop: it moves the policy's adapter, and keeps its own state from round to round."""

    def learn(self, data: RoundData, on_step: StepTaken) -> dict[str, float]:
        """Take the round's optimiser steps.

        Returns:
            The round's numbers: ``scoring.sampled_numbers`` of its rollouts, ``learning_rate``, ``updates`` (steps
            taken) and means of the steps' numbers.
        """


class Objective(Protocol[Item]):
    """What a trainer without PPO minimises over items, which are pairs or single responses.

    Attributes:
        trainer: Name of its block of parameters.
    """

    trainer: str

    def length(self, item: Item) -> int:
        """Tokens of an item."""

    def weight(self, part: Sequence[Item]) -> int:
        """By what the loss of a part counts in a step: what the loss is a mean over."""

    def loss(self, part: Sequence[Item]) -> tuple[Tensor, dict[str, float]]:
        """Loss of a part, with its gradient, and the numbers to log."""


def micro_batch(params: OptimiserParams, trainer: str, per_item: int = 1) -> HalvingSize:
    """A trainer's ``micro_batch_size``, halved where memory runs out; ``per_item`` responses make one of it."""
    return HalvingSize(
        params.micro_batch_size * per_item,
        f"policy_training.{trainer}.micro_batch_size" + (f" (of {per_item} responses each)" if per_item > 1 else ""),
        "Gradients are summed over micro-batches, so steps are the same but for rounding.",
        "Set `gradient_checkpointing: true` in the options of policy_backbone, load it in bfloat16, or lower "
        "response_sampling.max_new_tokens or .responses_per_prompt.",
    )


def adapter_optimizer(
    policy: Policy, params: OptimiserParams, value_learning_rate: float | None = None
) -> torch.optim.Optimizer:
    """AdamW on the adapter and, where there is one, the value head with a learning rate of its own.

    On CUDA one kernel does all of a step.
    """
    groups = [{"params": policy.adapter_parameters(), "initial_lr": params.learning_rate}]
    if policy.value_head is not None:
        rate = params.learning_rate if value_learning_rate is None else value_learning_rate
        groups.append({"params": list(policy.value_head.parameters()), "initial_lr": rate})
    for group in groups:
        group["lr"] = group["initial_lr"]
    # None is torch's own choice: on the CPU a fused step rounds otherwise.
    fused = True if policy.device.type == "cuda" else None
    return torch.optim.AdamW(groups, weight_decay=params.weight_decay, fused=fused)


def anneal(optimizer: torch.optim.Optimizer, params: OptimiserParams, round_index: int, rounds: int) -> float:
    """Set the round's learning rates, linear from the first ones to ``anneal_to`` of them; returns the adapter's."""
    left = 1 - round_index / max(1, rounds - 1) * (1 - params.anneal_to)
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", params.learning_rate) * left
    return optimizer.param_groups[0]["lr"]


def clipped_step(policy: Policy, optimizer: torch.optim.Optimizer, max_grad_norm: float, trainer: str) -> float:
    """One step along the gradient that has been gathered, its norm clipped; returns the norm before clipping.

    Raises:
        FloatingPointError: If the gradient is NaN or infinite; nothing has moved then.
    """
    norm = torch.nn.utils.clip_grad_norm_(policy.trainable_parameters(), max_grad_norm)
    if not torch.isfinite(norm):
        raise FloatingPointError(
            f"policy_training: the gradient is NaN or infinite; lower policy_training.{trainer}.learning_rate, or load "
            "the backbone in float32"
        )
    optimizer.step()
    return float(norm)


def step_means(steps: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each number over a round's steps, and ``updates``, their count; nothing but 0 updates without a step."""
    means = {name: sum(step[name] for step in steps) / len(steps) for name in (steps[0] if steps else ())}
    return {**means, "updates": float(len(steps))}


def supervised_steps(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    items: Sequence[Item],
    objective: Objective[Item],
    params: OptimiserParams,
    seed: int,
    on_step: StepTaken,
    micro: HalvingSize | None = None,
) -> dict[str, float]:
    """All optimiser steps of a round that learns from chosen items, shuffled in each epoch.

    Within a step items of similar length share a forward pass, and each pass weighs by its items: micro-batches change
    memory only. ``micro`` keeps their size from round to round, should memory run out; None starts from the parameters.

    Returns:
        As ``step_means``.
    """
    rng = random.Random(seed)
    micro = micro or micro_batch(params, objective.trainer)
    steps: list[dict[str, float]] = []
    with tqdm(total=params.epochs * len(items), desc="updating", unit="item", leave=False) as progress:
        for _ in range(params.epochs):
            order = rng.sample(items, len(items))
            for chosen in batched(len(order), params.batch_size):
                batch = sorted(order[chosen.start : chosen.stop], key=objective.length)
                step = _update(policy, optimizer, batch, objective, params, micro)
                steps.append(step)
                on_step(step)
                progress.update(len(batch))
    return step_means(steps)


def _update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: list[Item],
    objective: Objective[Item],
    params: OptimiserParams,
    micro: HalvingSize,
) -> dict[str, float]:
    total = objective.weight(batch)

    def gather(size: int) -> dict[str, float]:
        sums: dict[str, float] = {}
        optimizer.zero_grad()
        for rows in batched(len(batch), size):
            part = batch[rows.start : rows.stop]
            share = objective.weight(part) / total
            loss, numbers = objective.loss(part)
            (share * loss).backward()
            for name, value in numbers.items():
                sums[name] = sums.get(name, 0.0) + share * value
        return sums

    sums = micro.run(gather)
    return {**sums, "grad_norm": clipped_step(policy, optimizer, params.max_grad_norm, objective.trainer)}
