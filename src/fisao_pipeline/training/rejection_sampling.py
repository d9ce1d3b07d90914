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
from fisao_pipeline.params.policy_training import RejectionSamplingParams
from fisao_pipeline.training.learning import Learner, RoundData, StepTaken, supervised_steps
from fisao_pipeline.training.ranking import Ranking
from fisao_pipeline.training.rollouts import RolloutBatch
from fisao_pipeline.training.scoring import Scores, sampled_numbers, score_part

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


class RejectionSamplingLearner(Learner):
    """Best-of-K fine-tuning; nothing but its steps' number holds it to the base."""

    trainer = "rejection_sampling"
    params: RejectionSamplingParams

    def __init__(
        self,
        policy: Policy,
        open_image: ImageOpener,
        temperature: float,
        params: RejectionSamplingParams,
        rounds: int,
        ranking: Ranking,
    ):
        """Prepare the optimiser; see ``Learner``. ``ranking`` scores the responses of which the best are kept."""
        super().__init__(policy, open_image, temperature, params, rounds)
        self.ranking = ranking

    def _take_steps(
        self, data: RoundData, scores: Scores, taken: Sequence[dict[str, float]], on_step: StepTaken
    ) -> dict[str, float]:
        """Choose and take steps; a round in which all prompts' responses tie takes none."""
        params, rollouts = self.params, data.rollouts
        best = best_rows(rollouts, self.ranking(data), params)
        if not best:
            logger.warning(
                "Round %d has no prompt whose best response beats its worst by more than %g and takes no step: see "
                "policy_training.rejection_sampling.min_gap, response_sampling.temperature and .responses_per_prompt.",
                data.index,
                params.min_gap,
            )
        objective = BestObjective(self.policy, rollouts, self.open_image, self.temperature)
        steps = supervised_steps(
            self.policy, self.optimizer, best, objective, params, data.seed, on_step, self.micro, taken
        )
        numbers = sampled_numbers(rollouts, scores.old_logprobs, scores.ref_logprobs)
        return {**numbers, **steps, "chosen": float(len(best))}


def best_rows(rollouts: RolloutBatch, scores: Float[Tensor, " b"], params: RejectionSamplingParams) -> list[int]:
    """Rows of the best response of each prompt that has one."""
    found = [
        (group.start, best_response(scores[group.start : group.stop].tolist(), params.min_gap))
        for group in rollouts.groups
    ]
    return [start + best for start, best in found if best is not None]
