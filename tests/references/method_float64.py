"""The method's equations once more, as slow loops over Python floats, to compare the tensor code with.

Written from the equations and not from the code: sums are spelled out where the code recurs, densities where it takes
log-odds. Everything is float64; inputs are nested sequences of numbers, masks nested sequences of booleans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]
Table = Sequence[Sequence[float]]
Mask = Sequence[Sequence[bool]]


def counted(values: Table, mask: Mask) -> list[float]:
    return [
        float(x) for row, flags in zip(values, mask, strict=True) for x, flag in zip(row, flags, strict=True) if flag
    ]


def masked_mean(values: Table, mask: Mask) -> float:
    kept = counted(values, mask)
    return math.fsum(kept) / len(kept)


def masked_std(values: Table, mask: Mask) -> float:
    kept = counted(values, mask)
    mean = math.fsum(kept) / len(kept)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in kept) / len(kept))


def cosine(first: Row, second: Row) -> float:
    def unit(vector: Row) -> list[float]:
        length = math.sqrt(math.fsum(float(x) ** 2 for x in vector))
        return [float(x) / length for x in vector]

    return math.fsum(a * b for a, b in zip(unit(first), unit(second), strict=True))


def overlap_coefficient(first: Row, second: Row, bins: int) -> float:
    """Sum over equal bins of the smaller of the two shares; the last bin holds its upper edge."""
    low, high = min(*first, *second), max(*first, *second)
    edges = [low + (high - low) * k / bins for k in range(bins)] + [math.inf]

    def share(values: Row, k: int) -> float:
        return sum(edges[k] <= x < edges[k + 1] for x in values) / len(values)

    return math.fsum(min(share(first, k), share(second, k)) for k in range(bins))


def probabilities(logits: Row, temperature: float = 1.0, suppressed_ids: Sequence[int] = ()) -> list[float]:
    """Softmax of logits / temperature over the tokens that are not suppressed."""
    top = max(x for index, x in enumerate(logits) if index not in suppressed_ids)
    weights = [
        0.0 if index in suppressed_ids else math.exp((float(x) - top) / temperature) for index, x in enumerate(logits)
    ]
    return [weight / math.fsum(weights) for weight in weights]


def kl_divergence(first: Row, second: Row) -> float:
    return math.fsum(p * math.log(p / q) for p, q in zip(first, second, strict=True))


def kl_divergence_gradient(first: Row, second: Row) -> list[float]:
    """Gradient of KL(p ‖ q) in the logits of p, by central differences."""
    logits = [math.log(p) for p in first]
    gradient = []
    for index in range(len(logits)):
        ends = []
        for sign in (1, -1):
            moved = list(logits)
            moved[index] += sign * 1e-5
            ends.append(kl_divergence(probabilities(moved), second))
        gradient.append((ends[0] - ends[1]) / 2e-5)
    return gradient


def kl_estimate(logprob: float, ref_logprob: float, estimator: str) -> float:
    """With r = π_ref / π: k1 = −log r, k2 = (log r)² / 2, k3 = (r − 1) − log r."""
    ratio = math.exp(ref_logprob) / math.exp(logprob)
    return {"k1": -math.log(ratio), "k2": math.log(ratio) ** 2 / 2, "k3": ratio - 1 - math.log(ratio)}[estimator]


def adapted_kl_coef(kl_coef: float, observed: float, target: float, horizon: float, step: float) -> float:
    """Case by case: the error beyond 20% counts as 20%, and a horizon's worth of steps pays it in full."""
    relative = (observed - target) / target
    if relative > 0.2:
        relative = 0.2
    elif relative < -0.2:
        relative = -0.2
    return kl_coef + kl_coef * relative * (step / horizon)


def lengths_of(mask: Mask) -> list[int]:
    """Completion lengths; a completion starts in the first column and has no holes."""
    lengths = [sum(map(bool, row)) for row in mask]
    assert all(all(row[:length]) for row, length in zip(mask, lengths, strict=True))
    return lengths


def unlikely_charged(rewards: Table, ref_logprobs: Table, mask: Mask, floor: float, cost: float) -> list[list[float]]:
    """Fines on counted tokens whose probability under the reference is below the floor."""
    return [
        [
            (reward - (cost if math.exp(logprob) < floor else 0.0)) if counts else 0.0
            for reward, logprob, counts in zip(*row, strict=True)
        ]
        for row in zip(rewards, ref_logprobs, mask, strict=True)
    ]


def returns_to_go(rewards: Table, mask: Mask, gamma: float) -> list[list[float]]:
    """R_t = Σ_{k ≥ t} γ^(k − t) r_k, a double sum."""
    table = []
    for row, length in zip(rewards, lengths_of(mask), strict=True):
        kept = [math.fsum(gamma ** (k - t) * float(row[k]) for k in range(t, length)) for t in range(length)]
        table.append(kept + [0.0] * (len(row) - length))
    return table


def gae(rewards: Table, values: Table, mask: Mask, gamma: float, gae_lambda: float) -> list[list[float]]:
    """A_t as the λ-weighted mean of all n-step advantages, equation 16 of arXiv 1506.02438 before it is simplified.

    A^(n)_t = Σ_{l < n} γ^l r_{t+l} + γ^n V(s_{t+n}) − V(s_t), with V = 0 after the end;
    A_t = (1 − λ) Σ_{1 ≤ n < N} λ^(n−1) A^(n)_t + λ^(N−1) A^(N)_t for the N tokens that are left.
    """
    table = []
    for reward_row, value_row, length in zip(rewards, values, lengths_of(mask), strict=True):
        row = []
        for t in range(length):
            left = length - t
            steps = []
            for n in range(1, left + 1):
                bootstrap = gamma**n * float(value_row[t + n]) if n < left else 0.0
                paid = math.fsum(gamma**step * float(reward_row[t + step]) for step in range(n))
                steps.append(paid + bootstrap - float(value_row[t]))
            weights = [(1 - gae_lambda) * gae_lambda ** (n - 1) for n in range(1, left)] + [gae_lambda ** (left - 1)]
            row.append(math.fsum(w * a for w, a in zip(weights, steps, strict=True)))
        table.append(row + [0.0] * (len(reward_row) - length))
    return table


def group_baseline(returns: Table, group_size: int) -> list[list[float]]:
    table = []
    for index, row in enumerate(returns):
        first = index // group_size * group_size
        others = [returns[j] for j in range(first, first + group_size) if j != index]
        table.append([math.fsum(float(other[t]) for other in others) / len(others) for t in range(len(row))])
    return table


def importance(old_logprobs: Table, sampler_logprobs: Table, mask: Mask, cap: float) -> tuple[Table, dict[str, float]]:
    """Quotients of probabilities, cut at the cap; and their mean, the share that was cut, and the sampler's KL."""
    pairs = list(zip(counted(old_logprobs, mask), counted(sampler_logprobs, mask), strict=True))
    quotients = [math.exp(old) / math.exp(drawn) for old, drawn in pairs]
    left = iter(min(quotient, cap) for quotient in quotients)
    weights = [[next(left) if counts else 0.0 for counts in row] for row in mask]
    n = len(quotients)
    return weights, {
        "importance_mean": math.fsum(min(quotient, cap) for quotient in quotients) / n,
        "importance_truncated": sum(quotient > cap for quotient in quotients) / n,
        "sampler_kl": math.fsum(quotient - 1 - math.log(quotient) for quotient in quotients) / n,
    }


def policy_loss(
    logprobs: Table,
    old_logprobs: Table,
    advantages: Table,
    mask: Mask,
    clip_range: float,
    weights: Table | None = None,
) -> dict[str, float]:
    """Case by case: flat where the ratio has left the range in the direction that the advantage pays for."""
    surrogate, ratios, outside, divergence = [], [], [], []
    rows = zip(counted(logprobs, mask), counted(old_logprobs, mask), counted(advantages, mask), strict=True)
    for new, old, advantage in rows:
        ratio = math.exp(new) / math.exp(old)
        if advantage > 0 and ratio > 1 + clip_range:
            surrogate.append((1 + clip_range) * advantage)
        elif advantage < 0 and ratio < 1 - clip_range:
            surrogate.append((1 - clip_range) * advantage)
        else:
            surrogate.append(ratio * advantage)
        ratios.append(ratio)
        outside.append(1.0 if ratio > 1 + clip_range or ratio < 1 - clip_range else 0.0)
        divergence.append(ratio - 1 - math.log(ratio))
    n = len(ratios)
    if weights is not None:
        surrogate = [weight * gain for weight, gain in zip(counted(weights, mask), surrogate, strict=True)]
    return {
        "loss": -math.fsum(surrogate) / n,
        "ratio_mean": math.fsum(ratios) / n,
        "clip_fraction": math.fsum(outside) / n,
        "approx_kl": math.fsum(divergence) / n,
    }


def value_loss(values: Table, old_values: Table, returns: Table, mask: Mask, clip_range: float) -> float:
    errors = []
    for value, old, target in zip(
        counted(values, mask), counted(old_values, mask), counted(returns, mask), strict=True
    ):
        held = old + clip_range if value > old + clip_range else old - clip_range if value < old - clip_range else value
        errors.append(max((value - target) ** 2, (held - target) ** 2))
    return math.fsum(errors) / len(errors) / 2


def auroc(correct: Row, hallucinated: Row) -> float:
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in correct for b in hallucinated]
    return math.fsum(wins) / len(wins)


def normal_density(x: float, mean: float, std: float) -> float:
    return math.exp(-((x - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))


def bayes(score: float, weight: float, correct_mean: float, hallucinated_mean: float, std: float) -> float:
    """P(correct | S) from the two densities themselves."""
    upper = weight * normal_density(score, correct_mean, std)
    return upper / (upper + (1 - weight) * normal_density(score, hallucinated_mean, std))


def mixture_step(
    scores: Row, weight: float, correct_mean: float, hallucinated_mean: float, std: float
) -> tuple[float, float, float, float]:
    """One step of expectation maximisation for two normals with one variance; a maximum is its fixed point."""
    shares = [bayes(score, weight, correct_mean, hallucinated_mean, std) for score in scores]
    upper = math.fsum(shares)
    lower = len(scores) - upper
    high = math.fsum(p * x for p, x in zip(shares, scores, strict=True)) / upper
    low = math.fsum((1 - p) * x for p, x in zip(shares, scores, strict=True)) / lower
    squares = (p * (x - high) ** 2 + (1 - p) * (x - low) ** 2 for p, x in zip(shares, scores, strict=True))
    return upper / len(scores), high, low, math.sqrt(math.fsum(squares) / len(scores))


def mixture(scores: Row, tolerance: float, max_steps: int) -> tuple[float, float, float, float]:
    """Expectation maximisation from the middles of the outer terciles, until a step gained less likelihood."""
    ordered, n = sorted(scores), len(scores)

    def quantile(share: float) -> float:
        place = share * (n - 1)
        below = math.floor(place)
        above = min(below + 1, n - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    mean = math.fsum(scores) / n
    variance = math.fsum((x - mean) ** 2 for x in scores) / n
    ends = (0.5, quantile(5 / 6), quantile(1 / 6), math.sqrt(variance / 2))
    before = -math.inf
    for _ in range(max_steps):
        weight, high, low, std = ends
        densities = (weight * normal_density(x, high, std) + (1 - weight) * normal_density(x, low, std) for x in scores)
        likelihood = math.fsum(map(math.log, densities)) / n
        ends = mixture_step(scores, *ends)
        if likelihood - before < tolerance:
            break
        before = likelihood
    return ends


def contrast_weight(scores: Row, high: float, low: float, std: float, tolerance: float, max_steps: int) -> float:
    """The mixing weight of two fixed normals, from even odds until it moves less than the tolerance."""
    weight = 0.5
    for _ in range(max_steps):
        before, weight = weight, mixture_step(scores, weight, high, low, std)[0]
        if abs(weight - before) < tolerance:
            break
    return weight


def mention_reward(
    score: float,
    rule: str,
    *,
    correct: tuple[float, float, int],
    hallucinated: tuple[float, float, int],
    mixing_weight: float,
    margin: float = 0.0,
    cost: float = 1.0,
) -> float:
    """Reward of one mention; each class as (mean, standard deviation, count)."""
    gap = correct[0] - hallucinated[0]
    if rule == "margin":
        if score > correct[0] + margin:
            return (score - correct[0]) / gap
        return (score - hallucinated[0]) / gap if score < hallucinated[0] - margin else 0.0
    if rule == "midpoint":
        return (score - (correct[0] + hallucinated[0]) / 2) / gap
    squares = correct[2] * correct[1] ** 2 + hallucinated[2] * hallucinated[1] ** 2
    std = math.sqrt(squares / (correct[2] + hallucinated[2]))
    probability = bayes(score, mixing_weight, correct[0], hallucinated[0], std)
    return probability * 1 - cost * (1 - probability)


def label_reward(label: bool | None, cost: float) -> float:
    """Reward of one mention whose label is known, or is not (None)."""
    if label is None:
        return 0.0
    return 1.0 if label else -cost


def dpo_loss(chosen: Row, rejected: Row, ref_chosen: Row, ref_rejected: Row, beta: float) -> dict[str, float]:
    """−log of the Bradley-Terry probability that y_w beats y_l, with rewards β log(π / π_ref); mean over pairs."""
    losses, margins = [], []
    for w, lo, ref_w, ref_lo in zip(chosen, rejected, ref_chosen, ref_rejected, strict=True):
        better, worse = beta * (w - ref_w), beta * (lo - ref_lo)
        top = max(better, worse)
        losses.append(top + math.log(math.exp(better - top) + math.exp(worse - top)) - better)
        margins.append(better - worse)
    n = len(margins)
    wins = sum(margin > 0 for margin in margins)
    return {"loss": math.fsum(losses) / n, "reward_margin": math.fsum(margins) / n, "accuracy": wins / n}
