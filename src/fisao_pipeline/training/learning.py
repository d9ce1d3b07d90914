"""What a trainer is to the loop, and what all trainers do alike: the optimiser, its learning rate and its steps."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fisao_pipeline.models.halving import HalvingSize
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.params.policy_training import OptimiserParams
from fisao_pipeline.training.rollouts import RolloutBatch
from fisao_pipeline.training.sampling import batched
from fisao_pipeline.training.scoring import Scores, recomputed_logprobs

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


@dataclass
class RoundProgress:
    """A round under way.

    Attributes:
        scores: Of its rollouts before the first step: once the policy has moved nothing gives them again.
        steps: Numbers of the steps taken so far.
    """

    scores: Scores
    steps: list[dict[str, float]]


class Learner(ABC):
    """A trainer's part of the loop: it moves the policy's adapter, and keeps its own state from round to round.

    The state is all there is beside the policy's weights: a learner that is given it back takes the very steps that are
    left.

    Attributes:
        trainer: Name of its block of parameters.
        rows_per_item: Responses in what it calls one item of a micro-batch.
        progress: The round under way; None between rounds.
    """

    trainer: ClassVar[str]
    rows_per_item: ClassVar[int] = 1

    def __init__(
        self,
        policy: Policy,
        open_image: ImageOpener,
        temperature: float,
        params: OptimiserParams,
        rounds: int,
        value_learning_rate: float | None = None,
    ):
        """Prepare the optimiser.

        Args:
            policy: The model with a trainable adapter.
            open_image: Gives the RGB picture of an id.
            temperature: Divides the logits, as in sampling.
            params: Optimiser, and what the trainer adds to it.
            rounds: Of the whole run, for the learning rate's course.
            value_learning_rate: Of the value head; None for the adapter's.
        """
        self.policy, self.open_image, self.temperature, self.params = policy, open_image, temperature, params
        self.rounds = rounds
        self.optimizer = adapter_optimizer(policy, params, value_learning_rate)
        self.micro = micro_batch(params, self.trainer)
        several = self.rows_per_item > 1
        self.scoring = micro_batch(params, self.trainer, self.rows_per_item) if several else self.micro
        self.progress: RoundProgress | None = None

    def learn(self, data: RoundData, on_step: StepTaken) -> dict[str, float]:
        """Score under policy and reference, and take the round's optimiser steps, or those that are left of them.

        Returns:
            The round's numbers: ``scoring.sampled_numbers`` of its rollouts, ``learning_rate``, ``updates`` (steps
            taken) and means of the steps' numbers.
        """
        if self.progress is None:
            fixed = (self.open_image, self.temperature, self.scoring)
            self.progress = RoundProgress(recomputed_logprobs(self.policy, data.rollouts, *fixed), [])
        progress = self.progress
        rate = anneal(self.optimizer, self.params, data.index, self.rounds)

        def taken(step: dict[str, float]) -> None:
            progress.steps.append(step)
            on_step(step)

        row = self._take_steps(data, progress.scores, tuple(progress.steps), taken)
        self.progress = None
        return {**row, "learning_rate": rate}

    @abstractmethod
    def _take_steps(
        self, data: RoundData, scores: Scores, taken: Sequence[dict[str, float]], on_step: StepTaken
    ) -> dict[str, float]:
        """Take the steps that come after those ``taken``; returns the round's numbers over all of them."""

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's moments, and the scores of a round under way, by name."""
        moments = self.optimizer.state_dict()["state"]
        found = {f"optimizer.{row}.{name}": value for row, of in moments.items() for name, value in of.items()}
        if self.progress is not None:
            found |= {f"scores.{name}": value for name, value in self.progress.scores._asdict().items()}
        return found

    def values(self) -> dict[str, Any]:
        """What there is beside tensors, ready for JSON."""
        return {"steps": None if self.progress is None else self.progress.steps}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what ``tensors`` and ``values`` gave, in the same run or in another process."""
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(tensors, "optimizer.").items():
            row, _, name = key.partition(".")
            moments.setdefault(int(row), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.progress = None
        if values["steps"] is not None:
            scores = {name: value.to(self.policy.device) for name, value in _below(tensors, "scores.").items()}
            self.progress = RoundProgress(Scores(**scores), list(values["steps"]))


def _below(tensors: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {name.removeprefix(beginning): value for name, value in tensors.items() if name.startswith(beginning)}


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
        "response_sampling.max_new_tokens.",
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


def shuffled_batches(items: Sequence[Item], epochs: int, size: int, seed: int) -> list[list[Item]]:
    """What each of a round's steps learns from: every epoch has an order of its own, by the seed alone."""
    rng = random.Random(seed)
    orders = [rng.sample(items, len(items)) for _ in range(epochs)]
    return [order[chosen.start : chosen.stop] for order in orders for chosen in batched(len(order), size)]


def supervised_steps(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    items: Sequence[Item],
    objective: Objective[Item],
    params: OptimiserParams,
    seed: int,
    on_step: StepTaken,
    micro: HalvingSize | None = None,
    taken: Sequence[dict[str, float]] = (),
) -> dict[str, float]:
    """All optimiser steps of a round that learns from chosen items, shuffled in each epoch.

    Within a step items of similar length share a forward pass, and each pass weighs by its items: micro-batches change
    memory only. ``micro`` keeps their size from round to round, should memory run out; None starts from the parameters.
    ``taken`` are the numbers of the round's first steps where these were taken before.

    Returns:
        As ``step_means``.
    """
    micro = micro or micro_batch(params, objective.trainer)
    steps = list(taken)
    batches = shuffled_batches(items, params.epochs, params.batch_size, seed)
    done, total = sum(map(len, batches[: len(steps)])), params.epochs * len(items)
    with tqdm(total=total, initial=done, desc="updating", unit="item", leave=False) as progress:
        for batch in batches[len(steps) :]:
            step = _update(policy, optimizer, sorted(batch, key=objective.length), objective, params, micro)
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
