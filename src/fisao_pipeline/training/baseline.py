"""The baseline that rewards are measured against: calibrated on the calibration split, reported, kept as JSON."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pandas as pd
from pydantic import ValidationError
from torch import Tensor

from fisao_pipeline.method.calibration import (
    FITTED_MODES,
    Baseline,
    CalibrationError,
    ClassScores,
    auroc,
    calibrate_annotated,
    calibrate_contrast,
    calibrate_mixture,
    overlap_coefficient,
    overlap_of_normals,
)
from fisao_pipeline.method.token_rewards import reward_thresholds
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.models.verifier import Verifier
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.training.contrast import absent_words, agreed_mentions
from fisao_pipeline.training.tables import as_mask, response_labels, score_mentions, score_tensor, sentence_scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VerifierBaseline:
    """The mentions' baseline, the sentence scores' beside it, and how well both tell correct from hallucinated.

    Attributes:
        mentions: What token rewards are measured against, with its AUROC.
        rests_on: Mentions that it rests on: the labelled ones, or without labels all that were fitted; 0 when fixed.
        auroc_of: What its AUROC and overlap are of: `labels` (measured), `components` (of the two fitted densities, no
            measurement) or `nothing`.
        measured_auroc: AUROC on the labels where some mentions have one, whatever the baseline rests on: two fitted
            heaps always look apart, and only labels tell whether they are the correct and the hallucinated.
        overlap: Overlap coefficient of the two classes' scores; None when fixed.
        thresholds: Scores below which a mention costs and above which it earns by the run's rule.
        sentence_mean: Mean score of whole calibration responses, a cosine.
        sentence_std: Their spread.
        sentence_auroc: P(a response without hallucination scores higher than one with), None without labels.
        sentences_cut: Share of calibration responses longer than the verifier's context.
        settings: The ``reward_annotation`` parameters that scores, baseline and rewards were made with.
        verifier: `models.source.identity` of the verifier that scored; None if it was not said.
        vocabulary_digest: Of the vocabulary's content where it is a file; None for a built-in one.
        own_encoder: Whether the verifier's vision tower is the policy's; None where that cannot be told.
    """

    mentions: Baseline
    rests_on: int
    auroc_of: Literal["labels", "components", "nothing"]
    measured_auroc: float | None
    overlap: float | None
    thresholds: tuple[float, float]
    sentence_mean: float
    sentence_std: float
    sentence_auroc: float | None
    sentences_cut: float
    settings: dict[str, Any]
    verifier: str | None = None
    vocabulary_digest: str | None = None
    own_encoder: bool | None = None

    @property
    def params(self) -> RewardAnnotationParams:
        """``settings`` as a block: what a run was rewarded by, whatever the parameters say now.

        Raises:
            ValueError: If they are of a version with other parameters.
        """
        try:
            return RewardAnnotationParams.model_validate(self.settings)
        except ValidationError as error:
            raise ValueError(
                "the settings in verifier_baseline are not those of this version: re-run `kedro run "
                f"--pipelines=reward_annotation` ({error})"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VerifierBaseline:
        """Inverse of ``to_dict``.

        Raises:
            ValueError: If it was stored by a version that kept less.
        """
        missing = [field.name for field in fields(cls) if field.name not in values]
        if missing:
            raise ValueError(
                f"verifier_baseline does not say its {', '.join(missing)}, it is of an older version: re-run "
                "`kedro run --pipelines=reward_annotation` with the same --env and --params"
            )
        mentions = dict(values["mentions"])
        classes = {name: ClassScores(**mentions.pop(name)) for name in ("correct", "hallucinated")}
        thresholds = tuple(values["thresholds"])
        return cls(**{**values, "mentions": Baseline(**mentions, **classes), "thresholds": thresholds})


def calibrate(
    responses: pd.DataFrame,
    mentions: pd.DataFrame,
    verifier: Verifier,
    params: RewardAnnotationParams,
    open_image: ImageOpener,
) -> VerifierBaseline:
    """Find the baseline on the calibration split.

    Raises:
        CalibrationError: If no baseline can be had; the message names the setting to change.
    """
    if params.calibration == "fixed":
        result = _fixed_baseline(params)
        _report(result, params)
        return result
    chosen = responses[responses["split"] == "calibration"]
    own = mentions[mentions["split"] == "calibration"]
    if own.empty:
        raise CalibrationError(
            f"reward_annotation: none of the {len(chosen)} calibration responses names an object of the vocabulary "
            f"{params.vocabulary!r}; use another vocabulary (reward_annotation.vocabulary) or set "
            "reward_annotation.calibration to `fixed`"
        )
    scores = score_tensor(own)
    labelled, correct = as_mask(own["label"].notna()), as_mask(own["label"].eq("correct"))
    if params.calibration == "annotated":
        baseline = calibrate_annotated(scores[labelled], correct[labelled], params.min_mentions)
        overlap = overlap_coefficient(scores[labelled & correct], scores[labelled & ~correct])
    else:
        if params.calibration == "contrast":
            agreed = agreed_mentions(chosen, own, params.contrast.agreement)
            absent = score_mentions(absent_words(chosen, own, params.contrast), verifier, params, open_image)
            baseline = calibrate_contrast(*(score_tensor(t) for t in (agreed, absent, own)), params.min_mentions)
        else:
            baseline = calibrate_mixture(scores, params.min_mentions)
        overlap = overlap_of_normals(baseline.gap, baseline.pooled_std)
    sentences, cut = sentence_scores(chosen, verifier, open_image)
    result = VerifierBaseline(
        mentions=baseline,
        rests_on=int(labelled.sum()) if params.calibration == "annotated" else len(own),
        auroc_of="components" if baseline.mode in FITTED_MODES else "labels",
        measured_auroc=_auroc_or_none(scores[labelled & correct], scores[labelled & ~correct]),
        overlap=overlap,
        thresholds=_thresholds(baseline, params),
        sentence_mean=float(sentences.mean()),
        sentence_std=float(sentences.std(correction=0)),
        sentence_auroc=_sentence_auroc(chosen, own, sentences),
        sentences_cut=cut,
        settings=params.model_dump(mode="json"),
    )
    _report(result, params)
    return result


def _fixed_baseline(params: RewardAnnotationParams) -> VerifierBaseline:
    fixed = params.fixed_baseline
    mentions = Baseline(
        mode="fixed",
        correct=ClassScores(fixed.correct_mean, fixed.std, 0),
        hallucinated=ClassScores(fixed.hallucinated_mean, fixed.std, 0),
        mixing_weight=fixed.mixing_weight,
        auroc=None,
    )
    return VerifierBaseline(
        mentions=mentions,
        rests_on=0,
        auroc_of="nothing",
        measured_auroc=None,
        overlap=None,
        thresholds=_thresholds(mentions, params),
        sentence_mean=fixed.sentence_mean,
        sentence_std=fixed.sentence_std,
        sentence_auroc=None,
        sentences_cut=0.0,
        settings=params.model_dump(mode="json"),
    )


def _thresholds(baseline: Baseline, params: RewardAnnotationParams) -> tuple[float, float]:
    return reward_thresholds(baseline, params.rule, params.margin, params.false_mention_cost)


def _sentence_auroc(responses: pd.DataFrame, mentions: pd.DataFrame, scores: Tensor) -> float | None:
    labels = response_labels(responses, mentions)
    clean, hallucinating = (scores[as_mask(labels.eq(name))] for name in ("clean", "hallucinating"))
    return _auroc_or_none(clean, hallucinating)


def _auroc_or_none(upper: Tensor, lower: Tensor) -> float | None:
    """None without both classes."""
    return auroc(upper, lower) if len(upper) and len(lower) else None


def _report(baseline: VerifierBaseline, params: RewardAnnotationParams) -> None:
    found = baseline.mentions
    of = {"labels": "measured on labels", "components": "of the fitted components, not measured", "nothing": ""}
    marked = of[baseline.auroc_of]
    classes = "; ".join(
        f"{name} {scores.mean:.3f} ± {scores.std:.3f} (n={scores.n})"
        for name, scores in (("correct", found.correct), ("hallucinated", found.hallucinated))
    )
    low, high = baseline.thresholds
    separation = (
        "AUROC and overlap were not measured"
        if found.auroc is None
        else f"AUROC {found.auroc:.3f}, overlap {baseline.overlap:.3f} ({marked})"
    )
    if baseline.auroc_of == "components" and baseline.measured_auroc is not None:
        separation += f"; AUROC measured on what labels there are {baseline.measured_auroc:.3f}"
    logger.info(
        "Baseline (%s) of %d mentions: %s; %s; by the rule `%s` a mention costs below %.3f and earns above %.3f.",
        found.mode,
        baseline.rests_on,
        classes,
        separation,
        params.rule,
        low,
        high,
    )
    for value, source in ((found.auroc, marked), (baseline.measured_auroc, of["labels"])):
        if value is not None and value < params.min_auroc:
            logger.warning(
                "The verifier hardly tells correct from hallucinated mentions (AUROC %.3f < "
                "reward_annotation.min_auroc %.2f, %s): training on its scores may do harm. Try another verifier or "
                "reward_annotation.template.",
                value,
                params.min_auroc,
                source,
            )
            break
