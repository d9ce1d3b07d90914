"""What an arm has reached after how many sampled tokens: the probe's numbers of every round, means over seeds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from fisao_pipeline.benchmarks.seed_means import summary_over_seeds

PREFIXES = {"greedy": "probe_", "sampled": "probe_sampled_"}
METRICS = ("chair_i", "recall")
BEYOND = 1.05
History = Sequence[Mapping[str, Any]]


def mean_curve(histories: Sequence[History], confidence: float) -> list[dict[str, Any]]:
    """The rounds that all seeds have, the one before training (−1) first.

    Args:
        histories: ``training_history`` of each seed as records; a value that a round lacks is no entry of it.
        confidence: Coverage of the intervals over seeds.

    Returns:
        Per round ``round``, the mean ``sampled_tokens`` so far, and in ``greedy`` and ``sampled`` a summary over seeds
        (`summary_over_seeds`) of each of ``chair_i`` and ``recall`` that the probe gave for all seeds. Rounds of rows
        that did not count tokens are left out.
    """
    by_round = [{int(row["round"]): row for row in history if "sampled_tokens" in row} for history in histories]
    shared = set.intersection(*(set(rounds) for rounds in by_round)) if by_round else set()
    curve = []
    for number in sorted(shared):
        rows = [rounds[number] for rounds in by_round]
        tokens = summary_over_seeds([row["sampled_tokens"] for row in rows], confidence)["mean"]
        curve.append({"round": number, "sampled_tokens": tokens, **_probed(rows, confidence)})
    return curve


def _probed(rows: Sequence[Mapping[str, Any]], confidence: float) -> dict[str, dict[str, Any]]:
    return {
        decoding: {
            metric: summary_over_seeds([row[prefix + metric] for row in rows], confidence)
            for metric in METRICS
            if all(prefix + metric in row for row in rows)
        }
        for decoding, prefix in PREFIXES.items()
    }


def at_equal_tokens(
    ours: Mapping[int, History], first: Mapping[int, History], confidence: float
) -> dict[str, list[dict[str, Any]]]:
    """How far an arm's CHAIR_i lies above the first arm's when both have sampled as many tokens.

    Seed by seed, at the tokens that the first arm had sampled after each of its rounds; between two rounds the arm's
    own curve is taken as straight. Where an arm has not sampled as much, there is no point, but up to 5% beyond its
    last round that round counts: equal rounds are never quite equal in tokens.

    Args:
        ours: The arm's histories by seed.
        first: The first arm's.
        confidence: Coverage of the intervals over seeds.

    Returns:
        By decoding the points in the order of ``sampled_tokens`` (a mean over seeds), each with the summary over seeds
        of the difference, ``chair_i``.
    """
    seeds = sorted(set(ours) & set(first))
    found: dict[str, list[dict[str, Any]]] = {}
    for decoding, prefix in PREFIXES.items():
        theirs = {seed: _line(first[seed], prefix + "chair_i") for seed in seeds}
        own = {seed: [point[1:] for point in _line(ours[seed], prefix + "chair_i")] for seed in seeds}
        rounds = [{number for number, *_ in line} for line in theirs.values()]
        points = []
        for number in sorted(set.intersection(*rounds) - {-1}) if rounds else []:
            budgets, differences = [], []
            for seed in seeds:
                tokens, value = next(point[1:] for point in theirs[seed] if point[0] == number)
                reached = _between(own[seed], tokens)
                if reached is not None:
                    budgets.append(tokens)
                    differences.append(reached - value)
            if len(differences) == len(seeds):
                mean = summary_over_seeds(budgets, confidence)["mean"]
                points.append({"sampled_tokens": mean, "chair_i": summary_over_seeds(differences, confidence)})
        found[decoding] = points
    return found


def _line(history: History, name: str) -> list[tuple[int, float, float]]:
    """Round, tokens and value of the rounds that have both."""
    return [
        (int(row["round"]), row["sampled_tokens"], row[name]) for row in history if {"sampled_tokens", name} <= {*row}
    ]


def _between(line: Sequence[tuple[float, float]], tokens: float) -> float | None:
    """The value at a number of tokens on straight pieces between points; None where there is none."""
    place = bisect_left([point[0] for point in line], tokens)
    if place == len(line):
        return line[-1][1] if line and tokens <= BEYOND * line[-1][0] else None
    right, after = line[place]
    if right == tokens:
        return after
    if place == 0:
        return None
    left, before = line[place - 1]
    return before + (after - before) * (tokens - left) / (right - left)
