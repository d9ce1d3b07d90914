"""Does a reward go with the likeness of a response to reference captions (paper, Figure 2)?"""

from __future__ import annotations

import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings, bootstrap_pearson
from fisao_pipeline.benchmarks.reference_overlap import reference_overlap

REWARDS = ("sentence_reward", "token_reward")
QUALITIES = ("bleu", "rouge_l")
POINT_COLUMNS = ("response_id", "image_id", *REWARDS, *QUALITIES)


def reward_points(
    responses: pd.DataFrame,
    response_scores: pd.DataFrame,
    token_rewards: pd.DataFrame,
    manifest: pd.DataFrame,
    *,
    granularity: str,
) -> pd.DataFrame:
    """One row per scored response of an image with captions: both rewards, BLEU and ROUGE-L.

    Args:
        responses: The ``responses`` table.
        response_scores: Whole-response scores; up to scale and offset they are the sentence-level rewards.
        token_rewards: Summed per response; with ``granularity`` ``sentence`` they are no rewards of tokens, and the
            column is empty.
        manifest: The ``image_manifest`` with ``captions``.
        granularity: Of the rewards at hand: ``token``, ``phrase`` or ``sentence``.
    """
    captions = manifest.dropna(subset="captions").set_index("image_id")["captions"]
    captions = captions[captions.map(len) > 0]
    points = responses.merge(response_scores[["response_id", "sentence_score"]], on="response_id")
    points = points[points["image_id"].isin(captions.index)].merge(token_rewards, on="response_id")
    bleu, rouge_l = reference_overlap(points["text"].tolist(), captions.loc[points["image_id"]].tolist())
    by_token = points["token_rewards"].map(sum) if granularity != "sentence" else None
    points = points.assign(sentence_reward=points["sentence_score"], token_reward=by_token, bleu=bleu, rouge_l=rouge_l)
    return points[list(POINT_COLUMNS)].reset_index(drop=True)


def reward_correlations(points: pd.DataFrame, settings: BootstrapSettings) -> pd.DataFrame:
    """Pearson's r of each reward with each quality: ``reward``, ``quality``, ``r``, ``low``, ``high``, ``n``."""
    rows = []
    for reward in REWARDS:
        for quality in QUALITIES:
            pairs = points[["image_id", reward, quality]].set_axis(["image_id", "x", "y"], axis=1).dropna()
            found = bootstrap_pearson(pairs, settings)
            rows.append((reward, quality, found.value, found.low, found.high, len(pairs)))
    return pd.DataFrame(rows, columns=["reward", "quality", "r", "low", "high", "n"])
