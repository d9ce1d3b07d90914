"""What the verifier says of the objects that the two models name in their held-out captions."""

from __future__ import annotations

import re

import pandas as pd

from fisao_pipeline.method.object_spans import ObjectVocabulary
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.models.verifier import Verifier
from fisao_pipeline.training.baseline import VerifierBaseline
from fisao_pipeline.training.rewards import pay_mentions
from fisao_pipeline.training.tables import GroundTruth, label_mentions, mention_table, score_mentions

PREDICTION_KEYS = ["model", "decoding", "prompt_id", "sample_index"]


def mentions_of_predictions(
    predictions: pd.DataFrame,
    verifier: Verifier,
    vocabulary: ObjectVocabulary,
    truth: GroundTruth,
    baseline: VerifierBaseline,
    open_image: ImageOpener,
) -> pd.DataFrame:
    """Every mention of every caption with its score, label and the reward it would earn by the run's rule.

    Rule, costs and template are those that the baseline was stored with: what the policy was trained on.

    The reward is that of the mention, whatever their ``granularity``: sentence-level runs are looked at by the same
    measure.

    Args:
        predictions: The ``predictions`` table; only its captions are read.
        verifier: The dual encoder.
        vocabulary: What counts as an object.
        truth: What the annotations know, for the labels.
        baseline: The ``verifier_baseline``, with its settings.
        open_image: Gives the RGB picture of an id.

    Returns:
        The ``prediction_mentions`` table.
    """
    params = baseline.params
    captions = predictions[predictions["task"] == "caption"].reset_index(drop=True)
    # A prediction has no token ids: its words stand in for tokens, and the token columns are dropped again.
    words = [[word.span() for word in re.finditer(r"\S+", text)] for text in captions["response"]]
    responses = captions[["image_id"]].assign(
        response_id=captions.index.astype(str),
        split="held_out",
        text=captions["response"],
        token_starts=[[start for start, _ in spans] for spans in words],
        token_ends=[[end for _, end in spans] for spans in words],
    )
    found = mention_table(responses, vocabulary, params.scored_modifiers)
    mentions = label_mentions(score_mentions(found, verifier, params, open_image), truth)
    mentions["reward"] = pay_mentions(mentions, baseline, params).numpy()
    keys = captions.loc[mentions["response_id"].astype("int64"), PREDICTION_KEYS].reset_index(drop=True)
    kept = mentions.drop(columns=["response_id", "split", "token_start", "token_end"])
    return pd.concat([keys, kept], axis=1)
