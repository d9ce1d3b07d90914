"""Reward annotation: responses in, scored object mentions, a baseline and token rewards out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import pandas as pd

from fisao_pipeline.method.object_spans import ObjectVocabulary
from fisao_pipeline.method.vocabulary import file_digest
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.models.verifier import EmbeddingVerifier, Verifier
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.training.baseline import VerifierBaseline, calibrate
from fisao_pipeline.training.rewards import reward_table
from fisao_pipeline.training.tables import (
    GroundTruth,
    label_mentions,
    mention_table,
    response_score_table,
    score_mentions,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Annotation:
    """What the stage hands over: ``object_mentions``, the baseline, ``token_rewards`` and ``response_scores``."""

    mentions: pd.DataFrame
    baseline: VerifierBaseline
    token_rewards: pd.DataFrame
    response_scores: pd.DataFrame


def annotate(
    responses: pd.DataFrame,
    verifier: Verifier,
    vocabulary: ObjectVocabulary,
    truth: GroundTruth,
    params: RewardAnnotationParams,
    open_image: ImageOpener,
    verifier_identity: str | None = None,
    own_encoder: bool | None = None,
) -> Annotation:
    """The whole stage: find, score and label mentions, calibrate on the calibration split, reward every response.

    ``verifier_identity`` (see ``models.source``) and ``own_encoder`` (see ``models.own_encoder``) are kept in the
    baseline.

    Raises:
        CalibrationError: If no baseline can be had.
        ValueError: If a score is NaN or infinite, or labels are to pay and there are none.
    """
    found = mention_table(responses, vocabulary, params.scored_modifiers)
    _report_nothing_to_pay(responses, found, params)
    mentions = label_mentions(score_mentions(found, verifier, params, open_image), truth)
    if params.paid_by == "annotations" and mentions.loc[mentions["split"] == "training", "label"].isna().all():
        raise ValueError(
            "reward_annotation: paid_by `annotations` needs annotated training images, and no mention in their "
            "responses has a label: add annotations and re-run from image_ingestion on, or set "
            "reward_annotation.paid_by to `verifier`"
        )
    baseline = calibrate(responses, mentions, verifier, params, open_image)
    digest = file_digest(params.vocabulary)
    baseline = replace(baseline, verifier=verifier_identity, vocabulary_digest=digest, own_encoder=own_encoder)
    rewards = reward_table(responses, mentions, baseline, verifier, params, open_image)
    return Annotation(mentions, baseline, rewards, response_score_table(responses, mentions, verifier, open_image))


@dataclass(frozen=True)
class Annotator:
    """The reward of this run: what turns responses into token rewards, the same in the stage and in the loop."""

    verifier: EmbeddingVerifier
    vocabulary: ObjectVocabulary
    baseline: VerifierBaseline
    params: RewardAnnotationParams
    open_image: ImageOpener
    truth: GroundTruth

    def __call__(self, responses: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Scored and labelled mentions and token rewards of responses."""
        found = mention_table(responses, self.vocabulary, self.params.scored_modifiers)
        mentions = label_mentions(score_mentions(found, self.verifier, self.params, self.open_image), self.truth)
        args = (responses, mentions, self.baseline, self.verifier, self.params, self.open_image)
        return mentions, reward_table(*args)


def _report_nothing_to_pay(responses: pd.DataFrame, mentions: pd.DataFrame, params: RewardAnnotationParams) -> None:
    training = responses["split"] == "training"
    if params.granularity != "sentence" and training.any() and "training" not in set(mentions["split"]):
        logger.warning(
            "reward_annotation: none of the %d training responses names an object of the vocabulary %r, so no token is "
            "paid and the first round has nothing to learn from. Use another vocabulary "
            "(reward_annotation.vocabulary), or prompts that ask for what is in the picture (raw_prompts, "
            "image_ingestion.template_prompt).",
            int(training.sum()),
            params.vocabulary,
        )
