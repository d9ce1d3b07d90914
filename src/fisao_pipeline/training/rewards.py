"""From scores to token rewards: what each mention pays, and on which token."""

from __future__ import annotations

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from fisao_pipeline.method.token_rewards import (
    charge_repeats,
    labelled_rewards,
    mention_rewards,
    place_on_tokens,
    sentence_rewards,
)
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.models.verifier import Verifier
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.training.baseline import VerifierBaseline
from fisao_pipeline.training.tables import as_mask, score_tensor, sentence_scores


def reward_table(
    responses: pd.DataFrame,
    mentions: pd.DataFrame,
    baseline: VerifierBaseline,
    verifier: Verifier,
    params: RewardAnnotationParams,
    open_image: ImageOpener,
) -> pd.DataFrame:
    """Token rewards of each response, zero off the last token of each mention (or of the response).

    Raises:
        ValueError: If a score is NaN or infinite.
    """
    lengths = responses["token_ids"].str.len()
    if params.granularity == "sentence":
        scores, _ = sentence_scores(responses, verifier, open_image)
        totals = sentence_rewards(scores.double(), baseline.sentence_mean, baseline.sentence_std)
        rewards = [_on_last_token(total, length) for total, length in zip(totals, lengths, strict=True)]
        return pd.DataFrame({"response_id": responses["response_id"], "token_rewards": rewards})
    paid = pay_mentions(mentions, baseline, params)
    of_response: dict[str, list[int]] = {}
    for row, response_id in enumerate(mentions["response_id"]):
        of_response.setdefault(response_id, []).append(row)
    spans = list(zip(mentions["token_start"], mentions["token_end"], strict=True))
    rewards = []
    for response_id, length in zip(responses["response_id"], lengths, strict=True):
        rows = of_response.get(response_id, [])
        rewards.append(place_on_tokens(paid[rows], [spans[row] for row in rows], length).tolist())
    return pd.DataFrame({"response_id": responses["response_id"], "token_rewards": rewards})


def pay_mentions(
    mentions: pd.DataFrame, baseline: VerifierBaseline, params: RewardAnnotationParams
) -> Float[Tensor, " m"]:
    """Reward of each row of a table with ``score``, ``label`` and ``repeated``, repeats charged."""
    if params.paid_by == "annotations":
        correct, known = (as_mask(mask) for mask in (mentions["label"].eq("correct"), mentions["label"].notna()))
        paid = labelled_rewards(correct, known, params.false_mention_cost)
    else:
        paid = mention_rewards(
            score_tensor(mentions), baseline.mentions, params.rule, params.margin, params.false_mention_cost
        )
    return charge_repeats(paid, as_mask(mentions["repeated"]), params.repeat_penalty)


def _on_last_token(total: Float[Tensor, ""], length: int) -> list[float]:
    """A response of zero tokens has none that could be paid."""
    return place_on_tokens(total[None], [(length - 1, length)], length).tolist() if length else []
