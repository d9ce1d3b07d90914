"""Supervised fine-tuning on the best response of each prompt: a comparison, no part of the method."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fisao_pipeline.method.preference_losses import nll_loss
from fisao_pipeline.method.preferences import best_response
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.params import RejectionSamplingParams
from fisao_pipeline.training.learning import (
    RoundData,
    StepTaken,
    adapter_optimizer,
    anneal,
    micro_batch,
    supervised_steps,
)
from fisao_pipeline.training.ranking import Ranking
from fisao_pipeline.training.rollouts import RolloutBatch
from fisao_pipeline.training.scoring import recomputed_logprobs, sampled_numbers, score_part

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BestObjective:
    """Negative log-likelihood of chosen rollouts (rows); see ``training.learning.Objective``."""

    policy: Policy
    rollouts: RolloutBatch
    open_image: ImageOpener
    temperature: float
    trainer: str = "rejection_sampling"

    def length(self, row: int) -> int:
        """Tokens of the response."""
        return self.weight([row])

    def weight(self, rows: Sequence[int]) -> int:
        """Tokens: the loss is their mean."""
        return int(self.rollouts.completion_mask[list(rows)].sum())

    def loss(self, rows: Sequence[int]) -> tuple[Tensor, dict[str, float]]:
        """The loss."""
        part = self.rollouts.rows(rows)
        logprobs, _ = score_part(self.policy, part, self.open_image, self.temperature)
        loss = nll_loss(logprobs, part.completion_mask)
        return loss, {"sft_loss": float(loss.detach())}


class RejectionSamplingLearner:
    """Best-of-K fine-tuning as a ``training.learning.Learner``; nothing but its steps' number holds it to the base."""

    def __init__(
        self,
        policy: Policy,
        open_image: ImageOpener,
        temperature: float,
        params: RejectionSamplingParams,
        rounds: int,
        ranking: Ranking,
    ):
        """Prepare the optimiser.

        Args:
            policy: The model with a trainable adapter.
            open_image: Gives the RGB picture of an id.
            temperature: Divides the logits, as in sampling.
            params: Optimiser.
            rounds: Of the whole run, for the learning rate's course.
            ranking: Scores the responses of which the best are kept.
        """
        self.policy, self.open_image, self.temperature, self.params = policy, open_image, temperature, params
        self.rounds, self.ranking = rounds, ranking
        self.optimizer = adapter_optimizer(policy, params)
        self.micro, self.scoring = micro_batch(params, "rejection_sampling"), micro_batch(params, "rejection_sampling")

    def learn(self, data: RoundData, on_step: StepTaken) -> dict[str, float]:
        """Choose, take steps; a round in which all prompts' responses tie takes none."""
        params, rollouts = self.params, data.rollouts
        fixed = (self.open_image, self.temperature)
        old, ref, _ = recomputed_logprobs(self.policy, rollouts, *fixed, self.scoring)
        best = best_rows(rollouts, self.ranking(data), params)
        if not best:
            logger.warning(
                "Round %d has no prompt whose best response beats its worst by more than %g and takes no step: see "
                "policy_training.rejection_sampling.min_gap, response_sampling.temperature and .responses_per_prompt.",
                data.index,
                params.min_gap,
            )
        rate = anneal(self.optimizer, params, data.index, self.rounds)
        objective = BestObjective(self.policy, rollouts, *fixed)
        steps = supervised_steps(self.policy, self.optimizer, best, objective, params, data.seed, on_step, self.micro)
        numbers = sampled_numbers(rollouts, old, ref)
        return {**numbers, **steps, "chosen": float(len(best)), "learning_rate": rate}


def best_rows(rollouts: RolloutBatch, scores: Float[Tensor, " b"], params: RejectionSamplingParams) -> list[int]:
    """Rows of the best response of each prompt that has one."""
    found = [
        (group.start, best_response(scores[group.start : group.stop].tolist(), params.min_gap))
        for group in rollouts.groups
    ]
    return [start + best for start, best in found if best is not None]
