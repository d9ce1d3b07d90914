"""What the metrics of a comparison are called, which way is better, and what they mean in plain words."""

from __future__ import annotations

from typing import Literal

ROW_TITLES = {
    "chair_i": "CHAIR_i, % ↓",
    "chair_s": "CHAIR_s, % ↓",
    "recall": "object recall, % ↑",
    "objects_per_caption": "objects per caption",
    "repeated_mentions": "repeated mentions per caption ↓",
    "tokens": "tokens per caption",
    "unlikely_captions": "captions the base finds odd, % ↓",
    "pope_accuracy": "POPE accuracy, % ↑",
    "pope_accuracy_random": "POPE accuracy, random, % ↑",
    "pope_accuracy_popular": "POPE accuracy, popular, % ↑",
    "pope_accuracy_adversarial": "POPE accuracy, adversarial, % ↑",
    "pope_precision": "POPE precision, % ↑",
    "pope_recall": "POPE recall, % ↑",
    "pope_f1": "POPE F1, % ↑",
    "pope_yes_ratio": "POPE yes ratio, %",
    "pope_unparsed": "POPE answers not parsed, %",
}

PLAIN_WORDS = {
    "chair_i": "objects named that are not in the picture, of all objects named",
    "chair_s": "captions that name at least one object that is not there",
    "recall": "objects in the picture that the caption names",
    "objects_per_caption": "how much is said at all",
    "repeated_mentions": "the same object named again",
    "tokens": "length of a caption",
    "unlikely_captions": "captions with a word that the base model would hardly write",
    "pope_accuracy": "yes/no questions answered rightly",
    "pope_accuracy_random": "about any object that is not there",
    "pope_accuracy_popular": "about objects that many pictures show",
    "pope_accuracy_adversarial": "about objects that usually go with what is there",
    "pope_precision": "of the answers yes, those that are right",
    "pope_recall": "of the objects that are there, those confirmed",
    "pope_f1": "mean of precision and recall",
    "pope_yes_ratio": "answers that say yes; half of the questions should be",
    "pope_unparsed": "answers that say neither yes nor no",
}


def better_when(name: str) -> Literal["lower", "higher"] | None:
    """Which way a metric is better; None where neither way is, or the metric is not known."""
    title = ROW_TITLES.get(name, "")
    return "lower" if title.endswith("↓") else "higher" if title.endswith("↑") else None


def scale_and_digits(name: str) -> tuple[int, int]:
    """What a value is multiplied by to be printed, and digits after the point: shares are printed in percent."""
    return (100, 1) if "%" in ROW_TITLES.get(name, name) else (1, 2)
