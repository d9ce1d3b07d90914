"""What both kinds of figure of a study draw, in percent: the interactive ones and the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

METRIC_TITLES = {"chair_i": "CHAIR_i, % (less is better)", "recall": "object recall, % (more is better)"}
RECALL_TITLE = METRIC_TITLES["recall"]
# More lines than this are not told apart, so only the first arm and those that are another method are shown at once.
MANY_ARMS = 6
ANOTHER_METHOD = ("policy_training.trainer", "reward_annotation.granularity")


@dataclass(frozen=True)
class Point:
    """An arm by its number, or a base model, by recall and CHAIR_i, each with half the width of its interval."""

    name: str
    number: int | None
    recall: float
    recall_half: float | None
    chair: float
    chair_half: float | None


@dataclass(frozen=True)
class Line:
    """One arm over sampled tokens; ``lows`` and ``highs`` are empty without an interval."""

    name: str
    number: int
    shown: bool
    tokens: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]


def recall_points(result: Mapping[str, Any]) -> dict[str, list[Point]]:
    """By decoding the base models, then the arms, as far as recall and CHAIR_i are defined; numbers as in the lines."""
    return {decoding: list(_points(result, decoding)) for decoding in result["base"][0]["metrics"]}


def recall_title(result: Mapping[str, Any]) -> str:
    """Of the figure of `recall_points`."""
    return f"Hallucination against recall: {_what(result)}"


def budget_title(result: Mapping[str, Any]) -> str:
    """Of the figure of `budget_lines`."""
    return f"The probe after so many sampled tokens: {_what(result)}"


def budget_lines(result: Mapping[str, Any]) -> dict[str, dict[str, list[Line]]]:
    """By metric and decoding one line per arm whose probe gave the metric; a name has one number in all of them."""
    arms = list(result["arms"].items())
    many = len(arms) > MANY_ARMS
    panels: dict[str, dict[str, list[Line]]] = {}
    for metric in METRIC_TITLES:
        panels[metric] = {}
        for decoding in ("greedy", "sampled"):
            panels[metric][decoding] = lines = []
            for number, (name, arm) in enumerate(arms):
                points = [point for point in arm["curve"] if metric in point[decoding]]
                if points:
                    shown = not many or number == 0 or any(key in arm["set"] for key in ANOTHER_METHOD)
                    lines.append(
                        _line(name, number, shown, [(p["sampled_tokens"], p[decoding][metric]) for p in points])
                    )
    return panels


def _what(result: Mapping[str, Any]) -> str:
    seeds, confidence = result["settings"]["seeds"], result["settings"]["confidence"]
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"means over {len(seeds)} seeds, {confidence:.0%} intervals"


def _points(result: Mapping[str, Any], decoding: str) -> Iterator[Point]:
    for base in result["base"]:
        name = "base" if len(result["base"]) == 1 else f"base of {', '.join(base['arms'])}"
        metrics = base["metrics"].get(decoding, {})
        recall, chair = (metrics.get(metric, {}).get("value") for metric in ("recall", "chair_i"))
        if recall is not None and chair is not None:
            yield Point(name, None, 100 * recall, None, 100 * chair, None)
    for number, (name, means) in enumerate(result["arms"].items()):
        metrics = means["aligned"].get(decoding, {})
        if {"recall", "chair_i"} <= metrics.keys():
            recall, chair = metrics["recall"], metrics["chair_i"]
            yield Point(name, number, 100 * recall["mean"], _half(recall), 100 * chair["mean"], _half(chair))


def _half(summary: Mapping[str, float | None]) -> float | None:
    return None if summary["high"] is None else 100 * (summary["high"] - summary["mean"])


def _line(name: str, number: int, shown: bool, points: list[tuple[float, Mapping[str, Any]]]) -> Line:
    bounded = all(summary["low"] is not None for _, summary in points)
    return Line(
        name,
        number,
        shown,
        [tokens for tokens, _ in points],
        [100 * summary["mean"] for _, summary in points],
        # A share lies between nothing and all; Student's interval of a few seeds does not know that.
        [max(0.0, 100 * summary["low"]) for _, summary in points] if bounded else [],
        [min(100.0, 100 * summary["high"]) for _, summary in points] if bounded else [],
    )
