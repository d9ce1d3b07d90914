"""Direct preference optimisation on pairs among the responses of each prompt: a comparison, no part of the method."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fisao_pipeline.method.preference_losses import dpo_loss, response_logprobs
from fisao_pipeline.method.preferences import widest_pairs
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.params.policy_training import DPOParams
from fisao_pipeline.training.learning import Learner, RoundData, StepTaken, supervised_steps
from fisao_pipeline.training.ranking import Ranking
from fisao_pipeline.training.rollouts import RolloutBatch
from fisao_pipeline.training.scoring import Scores, sampled_numbers, score_part

logger = logging.getLogger(__name__)
Pair = tuple[int, int]


@dataclass(frozen=True)
class PairObjective:
    """DPO's loss on pairs of rollouts (rows of the better and of the worse); see ``training.learning.Objective``."""

    policy: Policy
    rollouts: RolloutBatch
    ref_logprobs: Float[Tensor, "b t"]
    open_image: ImageOpener
    temperature: float
    params: DPOParams
    trainer: str = "dpo"

    def length(self, pair: Pair) -> int:
        """Tokens of both responses."""
        return int(self.rollouts.completion_mask[list(pair)].sum())

    def weight(self, pairs: Sequence[Pair]) -> int:
        """Pairs: the loss is their mean."""
        return len(pairs)

    def loss(self, pairs: Sequence[Pair]) -> tuple[Tensor, dict[str, float]]:
        """The loss; a pair shares the computation of its prompt."""
        rows = [better for better, _ in pairs] + [worse for _, worse in pairs]
        part = self.rollouts.rows(rows)
        logprobs, _ = score_part(self.policy, part, self.open_image, self.temperature)
        mask, width = part.completion_mask, part.completion_ids.shape[1]
        now, ref = (
            response_logprobs(x, mask, self.params.length_normalised)
            for x in (logprobs, self.ref_logprobs[rows][:, :width])
        )
        answer = dpo_loss(*now.split(len(pairs)), *ref.split(len(pairs)), self.params.beta)
        return answer.loss, {
            "dpo_loss": float(answer.loss.detach()),
            "reward_margin": float(answer.reward_margin),
            "accuracy": float(answer.accuracy),
        }


class DPOLearner(Learner):
    """DPO; the reference is the policy with its adapter switched off."""

    trainer = "dpo"
    rows_per_item = 2
    params: DPOParams

    def __init__(
        self,
        policy: Policy,
        open_image: ImageOpener,
        temperature: float,
        params: DPOParams,
        rounds: int,
        ranking: Ranking,
    ):
        """Prepare the optimiser; see ``Learner``. ``ranking`` scores the responses that pairs are made of."""
        super().__init__(policy, open_image, temperature, params, rounds)
        self.ranking = ranking

    def _take_steps(
        self, data: RoundData, scores: Scores, taken: Sequence[dict[str, float]], on_step: StepTaken
    ) -> dict[str, float]:
        """Pair and take steps; a round without a pair takes none."""
        params, rollouts, ref = self.params, data.rollouts, scores.ref_logprobs
        pairs = preference_pairs(rollouts, self.ranking(data), params)
        if not pairs:
            logger.warning(
                "Round %d has no pair of responses to a prompt that differ by more than %g and takes no step: see "
                "policy_training.dpo.min_gap and .ranked_by, response_sampling.temperature and .responses_per_prompt.",
                data.index,
                params.min_gap,
            )
        objective = PairObjective(self.policy, rollouts, ref, self.open_image, self.temperature, params)
        steps = supervised_steps(
            self.policy, self.optimizer, pairs, objective, params, data.seed, on_step, self.micro, taken
        )
        return {**sampled_numbers(rollouts, scores.old_logprobs, ref), **steps, "pairs": float(len(pairs))}


def preference_pairs(rollouts: RolloutBatch, scores: Float[Tensor, " b"], params: DPOParams) -> list[Pair]:
    """Rows of (better, worse) of all prompts, the widest gaps of each."""
    pairs = []
    for group in rollouts.groups:
        own = scores[group.start : group.stop].tolist()
        chosen = widest_pairs(own, params.pairs_per_prompt, params.min_gap)
        pairs += [(group.start + better, group.start + worse) for better, worse in chosen]
    return pairs
