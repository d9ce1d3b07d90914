"""Reward annotation: responses in, scored object mentions, a baseline and token rewards out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float
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
from fisao_pipeline.method.object_spans import (
    ObjectVocabulary,
    find_mentions,
    mark_repeats,
    mention_token_spans,
    modifier_starts,
)
from fisao_pipeline.method.token_rewards import (
    charge_repeats,
    labelled_rewards,
    mention_rewards,
    place_on_tokens,
    reward_thresholds,
    sentence_rewards,
)
from fisao_pipeline.method.vocabulary import file_digest
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.models.verifier import Verifier
from fisao_pipeline.params import RewardAnnotationParams
from fisao_pipeline.training.contrast import absent_words, agreed_mentions

logger = logging.getLogger(__name__)

MENTION_COLUMNS = {
    "response_id": "str",
    "image_id": "str",
    "split": "str",
    "category": "str",
    "text": "str",
    "modifiers": "str",
    "char_start": "int64",
    "char_end": "int64",
    "token_start": "int64",
    "token_end": "int64",
    "repeated": "bool",
}


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


@dataclass(frozen=True)
class GroundTruth:
    """What the annotations know, in the vocabulary's names.

    Attributes:
        objects: True categories of each annotated image; images without annotations are left out.
        categories: What the annotations would have marked wherever it is visible, whether any image shows it or not.
    """

    objects: Mapping[str, set[str]]
    categories: frozenset[str]

    @classmethod
    def read(
        cls, manifest: pd.DataFrame, annotated_categories: Collection[str], vocabulary: ObjectVocabulary
    ) -> GroundTruth:
        """Read the two artifacts; names outside the vocabulary are left out."""

        def canonical(names: Collection[str]) -> set[str]:
            return {name for name in map(vocabulary.canonical, names) if name is not None}

        rows = zip(manifest["image_id"], manifest["objects"], strict=True)
        objects = {image_id: canonical(names) for image_id, names in rows if names is not None}
        return cls(objects, frozenset(canonical(annotated_categories)))


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


def mention_table(responses: pd.DataFrame, vocabulary: ObjectVocabulary, modifiers: int = 0) -> pd.DataFrame:
    """Every object mention of every response with its character and token span, in order; no scores yet.

    Args:
        responses: The ``responses`` table.
        vocabulary: What counts as an object.
        modifiers: Describing words to keep with a mention, at most.
    """
    rows = []
    for response in responses.itertuples(index=False):
        mentions = find_mentions(response.text, vocabulary)
        offsets = list(zip(response.token_starts, response.token_ends, strict=True))
        spans = mention_token_spans(offsets, mentions)
        repeats = mark_repeats([m.category for m in mentions])
        phrases = modifier_starts(response.text, mentions, modifiers)
        for mention, phrase, (start, end), repeated in zip(mentions, phrases, spans, repeats, strict=True):
            place = (mention.char_start, mention.char_end, start, end, repeated)
            who = (response.response_id, response.image_id, response.split)
            described = " ".join(response.text[phrase : mention.char_start].split())
            rows.append((*who, mention.category, mention.text, described, *place))
    return pd.DataFrame(rows, columns=list(MENTION_COLUMNS)).astype(MENTION_COLUMNS)


def score_mentions(
    mentions: pd.DataFrame, verifier: Verifier, params: RewardAnnotationParams, open_image: ImageOpener
) -> pd.DataFrame:
    """The table with the verifier's ``score`` of each mention, its ``modifiers`` before it where there are any."""
    words = mentions["category"] if params.score_words == "category" else mentions["text"].str.lower()
    phrases = (
        f"{described} {word}".lstrip() for described, word in zip(mentions["modifiers"].str.lower(), words, strict=True)
    )
    texts = [params.template.format(phrase) for phrase in phrases]
    scores = verifier.score(mentions["image_id"].tolist(), texts, open_image)
    return mentions.assign(score=scores.double().numpy())


def label_mentions(mentions: pd.DataFrame, truth: GroundTruth) -> pd.DataFrame:
    """The table with ``label``: ``correct`` or ``hallucinated``, null where the annotations cannot know.

    They cannot know of an image that is not annotated, nor of a category that they do not declare.
    """
    labels: list[str | None] = []
    for image_id, category in zip(mentions["image_id"], mentions["category"], strict=True):
        if image_id not in truth.objects or category not in truth.categories:
            labels.append(None)
        else:
            labels.append("correct" if category in truth.objects[image_id] else "hallucinated")
    return mentions.assign(label=pd.Series(labels, index=mentions.index, dtype="str"))


def sentence_scores(
    responses: pd.DataFrame, verifier: Verifier, open_image: ImageOpener
) -> tuple[Float[Tensor, " b"], float]:
    """S of each whole response, cut to the verifier's context, and the share that was cut."""
    before = verifier.truncated_texts
    scores = verifier.score(responses["image_id"].tolist(), responses["text"].tolist(), open_image)
    unique = max(1, responses["text"].nunique())
    return scores, (verifier.truncated_texts - before) / unique


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
    scores = _score_tensor(own)
    labelled, correct = _true(own["label"].notna()), _true(own["label"].eq("correct"))
    if params.calibration == "annotated":
        baseline = calibrate_annotated(scores[labelled], correct[labelled], params.min_mentions)
        overlap = overlap_coefficient(scores[labelled & correct], scores[labelled & ~correct])
    else:
        if params.calibration == "contrast":
            agreed = agreed_mentions(chosen, own, params.contrast.agreement)
            absent = score_mentions(absent_words(chosen, own, params.contrast), verifier, params, open_image)
            baseline = calibrate_contrast(*(_score_tensor(t) for t in (agreed, absent, own)), params.min_mentions)
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
        correct, known = (_true(mask) for mask in (mentions["label"].eq("correct"), mentions["label"].notna()))
        paid = labelled_rewards(correct, known, params.false_mention_cost)
    else:
        paid = mention_rewards(
            _score_tensor(mentions), baseline.mentions, params.rule, params.margin, params.false_mention_cost
        )
    return charge_repeats(paid, _true(mentions["repeated"]), params.repeat_penalty)


def _on_last_token(total: Float[Tensor, ""], length: int) -> list[float]:
    """A response of zero tokens has none that could be paid."""
    return place_on_tokens(total[None], [(length - 1, length)], length).tolist() if length else []


def response_score_table(
    responses: pd.DataFrame, mentions: pd.DataFrame, verifier: Verifier, open_image: ImageOpener
) -> pd.DataFrame:
    """``sentence_score`` and ``label`` of each calibration response; its embeddings are there since the calibration."""
    chosen = responses[responses["split"] == "calibration"].reset_index(drop=True)
    scores, _ = sentence_scores(chosen, verifier, open_image)
    return chosen[["response_id", "split"]].assign(
        sentence_score=scores.double().numpy(), label=response_labels(chosen, mentions)
    )


def response_labels(responses: pd.DataFrame, mentions: pd.DataFrame) -> pd.Series:
    """``hallucinating`` with a hallucinated mention, ``clean`` with correct ones only, null without any label."""
    labelled = mentions.dropna(subset="label")
    wrong = set(labelled.loc[labelled["label"] == "hallucinated", "response_id"])
    seen = set(labelled["response_id"])
    labels = [("hallucinating" if r in wrong else "clean") if r in seen else None for r in responses["response_id"]]
    return pd.Series(labels, index=responses.index, dtype="str")


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


def _score_tensor(mentions: pd.DataFrame) -> Float[Tensor, " m"]:
    return torch.tensor(mentions["score"].tolist(), dtype=torch.float64)


def _true(mask: pd.Series) -> Bool[Tensor, " m"]:
    return torch.tensor(mask.fillna(False).tolist(), dtype=torch.bool)


def _thresholds(baseline: Baseline, params: RewardAnnotationParams) -> tuple[float, float]:
    return reward_thresholds(baseline, params.rule, params.margin, params.false_mention_cost)


def _sentence_auroc(responses: pd.DataFrame, mentions: pd.DataFrame, scores: Tensor) -> float | None:
    labels = response_labels(responses, mentions)
    clean, hallucinating = (scores[_true(labels.eq(name))] for name in ("clean", "hallucinating"))
    return _auroc_or_none(clean, hallucinating)


def _auroc_or_none(upper: Tensor, lower: Tensor) -> float | None:
    """None without both classes."""
    return auroc(upper, lower) if len(upper) and len(lower) else None


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
