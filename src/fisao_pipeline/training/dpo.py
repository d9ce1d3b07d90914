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
from fisao_pipeline.params import DPOParams
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


class DPOLearner:
    """DPO as a ``training.learning.Learner``; the reference is the policy with its adapter switched off."""

    def __init__(
        self,
        policy: Policy,
        open_image: ImageOpener,
        temperature: float,
        params: DPOParams,
        rounds: int,
        ranking: Ranking,
    ):
        """Prepare the optimiser.

        Args:
            policy: The model with a trainable adapter.
            open_image: Gives the RGB picture of an id.
            temperature: Divides the logits, as in sampling.
            params: Pairs, loss, optimiser.
            rounds: Of the whole run, for the learning rate's course.
            ranking: Scores the responses that pairs are made of.
        """
        self.policy, self.open_image, self.temperature, self.params = policy, open_image, temperature, params
        self.rounds, self.ranking = rounds, ranking
        self.optimizer = adapter_optimizer(policy, params)
        # Twice as many rows as pairs go through the model at once.
        self.micro, self.scoring = micro_batch(params, "dpo"), micro_batch(params, "dpo", per_item=2)

    def learn(self, data: RoundData, on_step: StepTaken) -> dict[str, float]:
        """Pair, score under policy and reference, take steps; a round without a pair takes none."""
        params, rollouts = self.params, data.rollouts
        old, ref, _ = recomputed_logprobs(self.policy, rollouts, self.open_image, self.temperature, self.scoring)
        pairs = preference_pairs(rollouts, self.ranking(data), params)
        if not pairs:
            logger.warning(
                "Round %d has no pair of responses to a prompt that differ by more than %g and takes no step: see "
                "policy_training.dpo.min_gap and .ranked_by, response_sampling.temperature and .responses_per_prompt.",
                data.index,
                params.min_gap,
            )
        rate = anneal(self.optimizer, params, data.index, self.rounds)
        objective = PairObjective(self.policy, rollouts, ref, self.open_image, self.temperature, params)
        steps = supervised_steps(self.policy, self.optimizer, pairs, objective, params, data.seed, on_step, self.micro)
        numbers = sampled_numbers(rollouts, old, ref)
        return {**numbers, **steps, "pairs": float(len(pairs)), "learning_rate": rate}


def preference_pairs(rollouts: RolloutBatch, scores: Float[Tensor, " b"], params: DPOParams) -> list[Pair]:
    """Rows of (better, worse) of all prompts, the widest gaps of each."""
    pairs = []
    for group in rollouts.groups:
        own = scores[group.start : group.stop].tolist()
        chosen = widest_pairs(own, params.pairs_per_prompt, params.min_gap)
        pairs += [(group.start + better, group.start + worse) for better, worse in chosen]
    return pairs
