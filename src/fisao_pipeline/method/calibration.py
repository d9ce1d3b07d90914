"""What the verifier's scores of correct and of hallucinated mentions look like, with labels or without."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Mode = Literal["annotated", "mixture", "contrast", "fixed"]
# Modes without labels: their AUROC and overlap are those of the two components, no measurement.
FITTED_MODES: frozenset[Mode] = frozenset({"mixture", "contrast"})


class CalibrationError(ValueError):
    """The scores at hand cannot carry a baseline; the message names the setting to change."""


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class of mentions: mean and standard deviation (cosines) and the number they rest on."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Baseline:
    """μ_cor, μ_hal and what the reward rules need beside them.

    Attributes:
        mode: How it was found.
        correct: Scores of correct mentions (`mixture`: of the fitted upper component, n rounded; `contrast`: of agreed
            mentions).
        hallucinated: Scores of hallucinated mentions (`mixture`: of the lower component; `contrast`: of absent words).
        mixing_weight: Prior probability that a mention is correct, in (0, 1).
        auroc: P(score of a correct mention > score of a hallucinated one); without labels that of the fitted
            components; None when fixed.
    """

    mode: Mode
    correct: ClassScores
    hallucinated: ClassScores
    mixing_weight: float
    auroc: float | None

    def __post_init__(self) -> None:
        """Refuse a baseline that would reward hallucinations.

        Raises:
            CalibrationError: If μ_cor ≤ μ_hal, a spread is not positive or the mixing weight is not in (0, 1).
        """
        if not self.correct.mean > self.hallucinated.mean:
            raise CalibrationError(
                f"the verifier scores correct mentions (mean {self.correct.mean:.4f}) no higher than hallucinated ones "
                f"(mean {self.hallucinated.mean:.4f}); training on such scores would do harm. Use another verifier or "
                "text template (reward_annotation.template)"
            )
        if not self.pooled_std > 0:
            raise CalibrationError(
                "the scores of both classes have no spread; calibrate on more mentions "
                "(response_sampling.calibration_prompts), or set reward_annotation.calibration to `fixed`"
            )
        if not 0 < self.mixing_weight < 1:
            raise CalibrationError(f"mixing_weight must lie in (0, 1), got {self.mixing_weight}")

    @property
    def gap(self) -> float:
        """μ_cor − μ_hal, positive."""
        return self.correct.mean - self.hallucinated.mean

    @property
    def midpoint(self) -> float:
        """(μ_cor + μ_hal) / 2."""
        return 0.5 * (self.correct.mean + self.hallucinated.mean)

    @property
    def pooled_std(self) -> float:
        """One standard deviation for both classes, weighted by their counts, so that P(correct | S) rises with S."""
        correct, hallucinated = max(self.correct.n, 1), max(self.hallucinated.n, 1)
        total = correct * self.correct.std**2 + hallucinated * self.hallucinated.std**2
        return math.sqrt(total / (correct + hallucinated))


def _require_finite(caller: str, *scores: Tensor) -> None:
    """Refuse NaN and infinite scores, which would otherwise end in an error about something else."""
    if not all(torch.isfinite(x).all() for x in scores):
        raise CalibrationError(f"{caller}: a score is NaN or infinite; the verifier or its input is broken")


def auroc(correct: Float[Tensor, " n"], hallucinated: Float[Tensor, " m"]) -> float:
    """P(a correct mention scores higher than a hallucinated one), ties counted half (Mann-Whitney U / nm).

    Raises:
        CalibrationError: If a class is empty or a score is not finite.
    """
    _require_finite("auroc", correct, hallucinated)
    if not len(correct) or not len(hallucinated):
        raise CalibrationError(f"auroc: needs both classes, got {len(correct)} correct and {len(hallucinated)} others")
    ordered = hallucinated.sort().values
    below = torch.searchsorted(ordered, correct.contiguous(), right=False)
    not_above = torch.searchsorted(ordered, correct.contiguous(), right=True)
    return float((below + not_above).double().sum() / 2 / (len(correct) * len(hallucinated)))


def overlap_coefficient(correct: Float[Tensor, " n"], hallucinated: Float[Tensor, " m"], bins: int = 40) -> float:
    """Share of the two score distributions that lies on common ground, from two histograms with the same bins.

    OVL = Σ_k min(p_k, q_k), p_k and q_k the shares of correct and of hallucinated mentions in bin k; the bins are of
    equal width from the lowest to the highest of all scores. 0: apart, 1: the same. Few mentions in many bins miss
    each other by chance, so small samples come out too low.

    Raises:
        CalibrationError: If a class is empty or a score is not finite.
        ValueError: If there is no bin.
    """
    _require_finite("overlap_coefficient", correct, hallucinated)
    if not len(correct) or not len(hallucinated):
        raise CalibrationError(
            f"overlap_coefficient: needs both classes, got {len(correct)} correct and {len(hallucinated)} others"
        )
    if bins < 1:
        raise ValueError(f"overlap_coefficient: bins must be at least 1, got {bins}")
    classes = correct.double(), hallucinated.double()
    low = min(float(scores.min()) for scores in classes)
    width = max(float(scores.max()) for scores in classes) - low
    if width == 0:
        return 1.0
    places = [((scores - low) / width * bins).long().clamp(max=bins - 1) for scores in classes]
    p, q = (torch.bincount(place, minlength=bins) / len(place) for place in places)
    return float(torch.minimum(p.double(), q.double()).sum())


def overlap_of_normals(gap: float, std: float) -> float:
    """Overlap coefficient of two normal densities of one spread: 2Φ(−|gap| / 2s).

    Raises:
        ValueError: If the spread is not positive.
    """
    if not std > 0:
        raise ValueError(f"overlap_of_normals: std must be positive, got {std}")
    return math.erfc(abs(gap) / std / (2 * math.sqrt(2)))


def auroc_of_normals(gap: float, std: float) -> float:
    """AUROC of two normal densities of one spread, the upper one ``gap`` above the other: Φ(gap / s√2).

    Raises:
        ValueError: If the spread is not positive.
    """
    if not std > 0:
        raise ValueError(f"auroc_of_normals: std must be positive, got {std}")
    return 0.5 * math.erfc(-gap / std / 2)


def calibrate_annotated(scores: Float[Tensor, " m"], correct: Bool[Tensor, " m"], min_mentions: int = 2) -> Baseline:
    """Baselines from labelled mentions: means, spreads and shares of the two classes.

    Raises:
        CalibrationError: If a class has fewer than ``min_mentions`` mentions, a score is not finite, or μ_cor ≤ μ_hal.

    Source: FiSAO, section 3.2: captions of COCO images, objects marked correct or hallucinated as CHAIR does.
    """
    _require_finite("calibration `annotated`", scores)
    if not len(scores):
        raise CalibrationError(
            "reward_annotation: calibration `annotated` found no labelled mention: the calibration images are not "
            "annotated, or no annotation file declares the categories that the responses name. Set "
            "reward_annotation.calibration to `contrast` or `mixture`, which need no labels"
        )
    classes = {"correct": scores[correct], "hallucinated": scores[~correct]}
    for name, values in classes.items():
        if len(values) < min_mentions:
            raise CalibrationError(
                f"reward_annotation: calibration `annotated` found {len(values)} {name} mentions and needs "
                f"{min_mentions} (reward_annotation.min_mentions): sample more calibration responses "
                "(response_sampling.calibration_prompts, image_ingestion.split_fractions), or set "
                "reward_annotation.calibration to `contrast`, `mixture` or `fixed`"
            )
    means = {k: ClassScores(float(v.mean()), float(v.std(correction=0)), len(v)) for k, v in classes.items()}
    return Baseline(
        mode="annotated",
        correct=means["correct"],
        hallucinated=means["hallucinated"],
        mixing_weight=float(correct.double().mean()),
        auroc=auroc(classes["correct"], classes["hallucinated"]),
    )


def calibrate_mixture(
    scores: Float[Tensor, " m"],
    min_mentions: int = 20,
    max_steps: int = 500,
    tolerance: float = 1e-7,
    min_separation: float = 1.0,
) -> Baseline:
    """Baselines without any label: two normal components with one variance, fitted by EM to the mentions' scores.

    Started from the terciles; the upper component is taken for the correct mentions. EM fits two components to any
    scores, so components closer than ``min_separation`` standard deviations (at 1 their AUROC is 0.76) are refused:
    rewards are divided by the distance of the means. Components further apart are no proof that there are two.

    Raises:
        CalibrationError: If there are fewer than ``min_mentions`` scores, one is not finite, or they do not fall apart
            into two components.
    """
    _require_finite("calibration `mixture`", scores)
    if len(scores) < min_mentions:
        raise CalibrationError(
            f"reward_annotation: calibration `mixture` found {len(scores)} mentions and needs {min_mentions} "
            "(reward_annotation.min_mentions): sample more calibration responses "
            "(response_sampling.calibration_prompts), or set reward_annotation.calibration to `fixed`"
        )
    values = scores.double()
    low, high = torch.quantile(values, torch.tensor([1 / 6, 5 / 6], dtype=torch.float64)).tolist()
    weight, variance, previous = 0.5, float(values.var(correction=0)) / 2, -math.inf
    if variance <= 0:
        raise CalibrationError(
            "reward_annotation: calibration `mixture`: all mentions have the same score; use another verifier or "
            "template (reward_annotation.template), or set reward_annotation.calibration to `fixed`"
        )
    for _ in range(max_steps):
        log_upper = math.log(weight) - (values - high) ** 2 / (2 * variance)
        log_lower = math.log1p(-weight) - (values - low) ** 2 / (2 * variance)
        evidence = torch.logaddexp(log_upper, log_lower)
        upper = (log_upper - evidence).exp()
        likelihood = float(evidence.mean()) - 0.5 * math.log(variance)
        weight = min(max(float(upper.mean()), 1e-6), 1 - 1e-6)
        high = float((upper * values).sum() / upper.sum())
        low = float(((1 - upper) * values).sum() / (1 - upper).sum())
        variance = float((upper * (values - high) ** 2 + (1 - upper) * (values - low) ** 2).mean())
        if variance <= 1e-12 or likelihood - previous < tolerance:
            break
        previous = likelihood
    std = math.sqrt(max(variance, 1e-12))
    count = round(weight * len(scores))
    separation = (high - low) / std
    if separation < min_separation or min(weight, 1 - weight) * len(scores) < 2:
        raise CalibrationError(
            "calibration `mixture`: the scores form one heap, not two (components of "
            f"{count} and {len(scores) - count} mentions, {separation:.2f} standard deviations apart); set "
            "reward_annotation.calibration to `annotated` or `fixed`, or sample more mentions"
        )
    return Baseline(
        mode="mixture",
        correct=ClassScores(high, std, count),
        hallucinated=ClassScores(low, std, len(scores) - count),
        mixing_weight=weight,
        auroc=auroc_of_normals(high - low, std),
    )


def calibrate_contrast(
    agreed: Float[Tensor, " a"],
    absent: Float[Tensor, " h"],
    scores: Float[Tensor, " m"],
    min_mentions: int = 20,
    max_steps: int = 500,
    tolerance: float = 1e-7,
) -> Baseline:
    """Baselines without any label, from what the policy is sure of and from what it never said of an image.

    μ_cor is the mean score of mentions on which most samples of a prompt agree, μ_hal that of words that no sample of
    the image names; s pools both spreads. With these two normal components held fixed, the mixing weight is fitted by
    EM to the scores of all own mentions:

        w ← mean_i P_i,   P_i = w N(S_i; μ_cor, s) / (w N(S_i; μ_cor, s) + (1 − w) N(S_i; μ_hal, s))

    Known bias: absent words are easier than real hallucinations. A policy invents what is habitual in such a scene,
    which also looks likely to the verifier, so real hallucinations score higher than absent words: μ_hal and the
    threshold come out too low, and w, AUROC and with them trust in the verifier too high. Mentions that all samples
    agree on may be wrong as well: a policy's habits do not change from sample to sample, which lowers μ_cor.

    Args:
        agreed: Scores of agreed mentions.
        absent: Scores of absent words.
        scores: Scores of all own mentions, for the mixing weight.
        min_mentions: Least number of each of the three.
        max_steps: Of EM.
        tolerance: EM stops when the weight moves less.

    Raises:
        CalibrationError: If there are too few of any, one is not finite, μ_cor ≤ μ_hal, or all own mentions fall to one
            component.
    """
    _require_finite("calibration `contrast`", agreed, absent, scores)
    for name, values in (("agreed mentions", agreed), ("absent words", absent), ("mentions", scores)):
        if len(values) < min_mentions:
            raise CalibrationError(
                f"reward_annotation: calibration `contrast` found {len(values)} {name} and needs {min_mentions} "
                "(reward_annotation.min_mentions): sample more calibration responses "
                "(response_sampling.calibration_prompts, response_sampling.responses_per_prompt), change "
                "reward_annotation.contrast, or set reward_annotation.calibration to `mixture` or `fixed`"
            )
    values = scores.double()
    correct, hallucinated = (
        ClassScores(float(kept.mean()), float(kept.std(correction=0)), len(kept))
        for kept in (agreed.double(), absent.double())
    )
    baseline = Baseline("contrast", correct, hallucinated, mixing_weight=0.5, auroc=None)
    # Each mention's log odds of the two densities; the weight's come on top.
    evidence = baseline.gap / baseline.pooled_std**2 * (values - baseline.midpoint)
    weight = 0.5
    for _ in range(max_steps):
        odds = math.log(weight) - math.log1p(-weight)
        before, weight = weight, min(max(float(torch.sigmoid(evidence + odds).mean()), 1e-6), 1 - 1e-6)
        if abs(weight - before) < tolerance:
            break
    if min(weight, 1 - weight) * len(values) < 2:
        which = "agreed mentions" if weight > 0.5 else "absent words"
        raise CalibrationError(
            f"reward_annotation: calibration `contrast`: all {len(values)} mentions score like {which} (mixing weight "
            f"{weight:.4f}), so that one prior would decide alone; set reward_annotation.calibration to `annotated`, "
            "`mixture` or `fixed`"
        )
    fitted_auroc = auroc_of_normals(baseline.gap, baseline.pooled_std)
    return replace(baseline, mixing_weight=weight, auroc=fitted_auroc)
