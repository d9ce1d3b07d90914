"""The fine-grained reward: from a mention's score to the reward of its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fisao_pipeline.method.calibration import Baseline

Rule = Literal["margin", "midpoint", "posterior"]


def posterior_correct(scores: Float[Tensor, " m"], baseline: Baseline) -> Float[Tensor, " m"]:
    """P(correct | S) from two normal densities with one pooled variance and the calibration's mixing weight.

    P = σ( log(w / (1 − w)) + (S − (μ_cor + μ_hal)/2) · (μ_cor − μ_hal) / s² )

    Returns:
        Probabilities, rising with S.
    """
    # In Python's float64: a weight near 1 rounded to float32 first would have lost its odds.
    log_odds = math.log(baseline.mixing_weight) - math.log1p(-baseline.mixing_weight)
    slope = baseline.gap / baseline.pooled_std**2
    return torch.sigmoid(log_odds + slope * (scores - baseline.midpoint))


def mention_rewards(
    scores: Float[Tensor, " m"],
    baseline: Baseline,
    rule: Rule,
    margin: float = 0.0,
    false_mention_cost: float = 1.0,
) -> Float[Tensor, " m"]:
    """Reward of each object mention from its score S.

    margin:    (S − μ_cor)/g if S > μ_cor + λ;  (S − μ_hal)/g if S < μ_hal − λ;  0 otherwise;  g = μ_cor − μ_hal
    midpoint:  (S − (μ_cor + μ_hal)/2)/g
    posterior: P − c · (1 − P) with P = P(correct | S)

    Args:
        scores: Cosines S in [-1, 1].
        baseline: μ_cor > μ_hal, spreads and mixing weight.
        rule: Which of the three.
        margin: λ ≥ 0, in cosine units; used by ``margin`` only.
        false_mention_cost: c ≥ 1; used by ``posterior`` only. A mention pays only if P > c / (1 + c).

    Raises:
        ValueError: If a score is not finite, λ < 0, c < 1, or the rule is unknown.

    Source: FiSAO, equation 8, as read here (``margin``); ``midpoint`` and ``posterior`` are this project's.
    """
    if not torch.isfinite(scores).all():
        raise ValueError("mention_rewards: a score is NaN or infinite; the verifier or its input is broken")
    if margin < 0:
        raise ValueError(f"mention_rewards: margin must be at least 0, got {margin}")
    if rule == "margin":
        correct, hallucinated = baseline.correct.mean, baseline.hallucinated.mean
        positive = torch.where(scores > correct + margin, scores - correct, 0.0)
        negative = torch.where(scores < hallucinated - margin, scores - hallucinated, 0.0)
        return (positive + negative) / baseline.gap
    if rule == "midpoint":
        return (scores - baseline.midpoint) / baseline.gap
    if rule == "posterior":
        if false_mention_cost < 1:
            raise ValueError(f"mention_rewards: false_mention_cost must be at least 1, got {false_mention_cost}")
        probability = posterior_correct(scores, baseline)
        return probability - false_mention_cost * (1 - probability)
    raise ValueError(f"mention_rewards: rule must be margin, midpoint or posterior, got {rule!r}")


def labelled_rewards(
    correct: Bool[Tensor, " m"], known: Bool[Tensor, " m"], false_mention_cost: float = 1.0
) -> Float[Tensor, " m"]:
    """What the rule ``posterior`` would pay if the verifier never erred: 1 if correct, −c if not, 0 if unknown.

    Not the method, which needs no labels: what it could reach with a perfect verifier.

    Args:
        correct: Whether the annotations confirm the mention.
        known: Whether they can tell at all.
        false_mention_cost: c ≥ 1.

    Returns:
        Rewards, float64.

    Raises:
        ValueError: If c < 1.
    """
    if false_mention_cost < 1:
        raise ValueError(f"labelled_rewards: false_mention_cost must be at least 1, got {false_mention_cost}")
    probability = correct.double()
    return torch.where(known, probability - false_mention_cost * (1 - probability), 0.0)


def reward_thresholds(
    baseline: Baseline, rule: Rule, margin: float = 0.0, false_mention_cost: float = 1.0
) -> tuple[float, float]:
    """Scores between which a mention neither costs nor earns: below the first it costs, above the second it earns.

    margin:    (μ_hal − λ, μ_cor + λ)
    midpoint:  (μ_cor + μ_hal)/2, twice
    posterior: (μ_cor + μ_hal)/2 + (log c − log(w/(1 − w))) · s²/g, twice: there P = c/(1 + c)

    Raises:
        ValueError: If the rule is unknown.
    """
    if rule == "margin":
        return baseline.hallucinated.mean - margin, baseline.correct.mean + margin
    if rule == "midpoint":
        return baseline.midpoint, baseline.midpoint
    if rule == "posterior":
        log_odds = math.log(baseline.mixing_weight) - math.log1p(-baseline.mixing_weight)
        shift = (math.log(false_mention_cost) - log_odds) * baseline.pooled_std**2 / baseline.gap
        return baseline.midpoint + shift, baseline.midpoint + shift
    raise ValueError(f"reward_thresholds: rule must be margin, midpoint or posterior, got {rule!r}")


def charge_repeats(
    rewards: Float[Tensor, " m"], repeated: Bool[Tensor, " m"], repeat_penalty: float = 0.0
) -> Float[Tensor, " m"]:
    """A category named again in the same response earns nothing positive, keeps its negative, and pays the penalty.

    Paid per mention, a policy learns to name one correct object again and again.

    Raises:
        ValueError: If the penalty is negative.
    """
    if repeat_penalty < 0:
        raise ValueError(f"charge_repeats: repeat_penalty must be at least 0, got {repeat_penalty}")
    return torch.where(repeated, rewards.clamp(max=0.0) - repeat_penalty, rewards)


def place_on_tokens(
    rewards: Float[Tensor, " m"], token_spans: Sequence[tuple[int, int]], token_count: int
) -> Float[Tensor, " t"]:
    """Token rewards of one response: each mention's reward on its last token, zero everywhere else.

    Once per mention, so that a name of many tokens is not paid many times. Two mentions that end in the same
    token add up.

    Raises:
        ValueError: If spans and rewards differ in number or a span lies outside the response.
    """
    if len(token_spans) != len(rewards):
        raise ValueError(f"place_on_tokens: {len(rewards)} rewards for {len(token_spans)} spans")
    placed = torch.zeros(token_count, dtype=rewards.dtype, device=rewards.device)
    for reward, (start, end) in zip(rewards, token_spans, strict=True):
        if not 0 <= start < end <= token_count:
            raise ValueError(f"place_on_tokens: span ({start}, {end}) outside a response of {token_count} tokens")
        placed[end - 1] += reward
    return placed


def sentence_rewards(scores: Float[Tensor, " b"], mean: float, std: float) -> Float[Tensor, " b"]:
    """The comparison reward: (S(v, whole response) − calibration mean) / calibration spread, for the last token.

    Raises:
        ValueError: If the spread is not positive.
    """
    if not std > 0:  # also NaN, the sample deviation of a single score
        raise ValueError(f"sentence_rewards: std must be positive, got {std}")
    return (scores - mean) / std
