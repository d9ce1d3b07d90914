"""Independent, slow versions: plain loops, regular expressions, exact fractions, no code of the package."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction

HYPHENS = "-\u2010\u2011"


def slow_mentions(text: str, names: Mapping[str, str | None]) -> list[tuple[str, int, int]]:
    """Try every name, longest first, at every position. ``names``: lower-case phrase to category (None: ignored)."""
    found, position = [], 0
    by_length = sorted(names, key=lambda name: (-len(name.split()), name))
    while position < len(text):
        for name in by_length:
            pattern = r"[\s\-\u2010\u2011]+".join(map(re.escape, name.split()))
            match = re.compile(rf"(?<!\w){pattern}(?!\w)", re.IGNORECASE).match(text, position)
            if match and not _inside_compound(text, *match.span()):
                if names[name] is not None:
                    found.append((names[name], *match.span()))
                position = match.end()
                break
        else:
            position += 1
    return found


def _inside_compound(text: str, start: int, end: int) -> bool:
    before = re.search(rf"\w[{HYPHENS}]$", text[:start])
    after = re.match(rf"[{HYPHENS}]\w", text[end:])
    return bool(before or after)


def slow_token_span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """First and one past the last token that holds one of the characters."""
    holders = [
        index for index, (a, b) in enumerate(offsets) if any(a <= character < b for character in range(start, end))
    ]
    return (holders[0], holders[-1] + 1) if holders else None


def slow_modifier_start(text: str, start: int, floor: int, max_words: int, boundaries: Collection[str]) -> int:
    """Take compounds and the blanks after them off the end of what stands before a mention, one regex match a time."""
    word = r"[\w\u0300-\u036f]+"
    described = re.compile(rf"(?<![\w\u0300-\u036f])((?:{word}[{HYPHENS}])*{word})(?:[^\S\r\n]|\u200b)+$")
    for _ in range(max_words):
        match = described.search(text[:start])
        if not match or match.start() < floor or match[1].lower() in boundaries:
            break
        if text[: match.start()].endswith(("'", "\u2019")):
            break
        start = match.start()
    return start


def slow_chair(captions: Sequence[Sequence[str]], truths: Sequence[set[str]]) -> dict[str, Fraction]:
    """CHAIR from mentioned categories, by counting one at a time."""
    mentions = wrong = wrong_captions = named = true = repeats = 0
    for mentioned, truth in zip(captions, truths, strict=True):
        seen: list[str] = []
        has_wrong = False
        for category in mentioned:
            mentions += 1
            if category not in truth:
                wrong += 1
                has_wrong = True
            if category in seen:
                repeats += 1
            seen.append(category)
        wrong_captions += has_wrong
        named += len([category for category in truth if category in seen])
        true += len(truth)
    n = len(captions)
    return {
        "chair_i": Fraction(wrong, mentions),
        "chair_s": Fraction(wrong_captions, n),
        "recall": Fraction(named, true),
        "objects_per_caption": Fraction(mentions, n),
        "repeated_mentions": Fraction(repeats, n),
    }


def slow_confusion(answers: Sequence[str], said: Sequence[bool]) -> dict[str, Fraction]:
    """POPE's figures from the confusion matrix; F1 from precision and recall."""
    pairs = list(zip(answers, said, strict=True))
    tp = pairs.count(("yes", True))
    fp, tn, fn = pairs.count(("no", True)), pairs.count(("no", False)), pairs.count(("yes", False))
    precision, recall = Fraction(tp, tp + fp), Fraction(tp, tp + fn)
    return {
        "accuracy": Fraction(tp + tn, len(pairs)),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "yes_ratio": Fraction(tp + fp, len(pairs)),
    }


def slow_bootstrap_sd(numerators: Sequence[float], denominators: Sequence[float], draws: int, seed: int) -> float:
    """Standard deviation of a ratio of sums when whole images are drawn one by one."""
    rng = random.Random(seed)
    indices = range(len(numerators))
    ratios = []
    for _ in range(draws):
        drawn = rng.choices(indices, k=len(numerators))
        ratios.append(sum(numerators[i] for i in drawn) / sum(denominators[i] for i in drawn))
    mean = sum(ratios) / draws
    return (sum((ratio - mean) ** 2 for ratio in ratios) / (draws - 1)) ** 0.5
