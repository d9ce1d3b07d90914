"""How much each response of a round is worth to a trainer that prefers one response of a prompt to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fisao_pipeline.method.object_spans import ObjectVocabulary
from fisao_pipeline.training.learning import RoundData
from fisao_pipeline.training.tables import GroundTruth, label_mentions, mention_table

Ranking = Callable[[RoundData], Float[Tensor, " b"]]
"""One score per rollout; NaN where none can be had."""


def summed_rewards(data: RoundData) -> Float[Tensor, " b"]:
    """The token rewards of each response, summed: what the verifier says, and nothing else."""
    return data.rollouts.token_rewards.sum(dim=1)


@dataclass(frozen=True)
class Judge:
    """What annotations say about responses: uses labels that the method itself does without.

    Attributes:
        vocabulary: Finds the mentions.
        truth: Labels them.
    """

    vocabulary: ObjectVocabulary
    truth: GroundTruth

    def __call__(self, data: RoundData) -> Float[Tensor, " b"]:
        """Correct minus false mentions of each response, NaN where its image is not annotated.

        A correct category counts once however often it is named, as in the probe; a false one each time.
        """
        mentions = label_mentions(mention_table(data.responses, self.vocabulary), self.truth)
        correct = mentions["label"].eq("correct").fillna(False) & ~mentions["repeated"]
        false = mentions["label"].eq("hallucinated").fillna(False)
        worth = (correct.astype(float) - false.astype(float)).groupby(mentions["response_id"]).sum()
        scores = data.responses["response_id"].map(worth).fillna(0.0)
        known = data.responses["image_id"].isin(list(self.truth.objects))
        return torch.tensor(scores.where(known).tolist(), dtype=torch.float64)
