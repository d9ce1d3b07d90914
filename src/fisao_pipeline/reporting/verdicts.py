"""What an interval allows to say: better, worse, changed, or nothing; and the verdict in words, made of these alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fisao_pipeline.benchmarks.metric_titles import PLAIN_WORDS, ROW_TITLES, better_when, scale_and_digits

Outcome = Literal["better", "worse", "changed", "open", "undefined"]
Interval = Mapping[str, float | None]
_KINDS: tuple[Outcome, ...] = ("better", "worse", "open")

# The figures that the verdict is about, each with what the aligned model does if it is better, if it is worse, and what
# stays open if neither is shown.
HEADLINES = {
    "chair_i": (
        "makes up a smaller share of the objects it names",
        "makes up a larger share of the objects it names",
        "whether it makes up a smaller or a larger share of the objects it names",
    ),
    "recall": (
        "names a larger share of the objects that are there",
        "names a smaller share of the objects that are there",
        "whether it names more or fewer of the objects that are there",
    ),
    "pope_accuracy": (
        "answers a larger share of yes/no questions rightly",
        "answers a smaller share of yes/no questions rightly",
        "whether it answers yes/no questions better or worse",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One metric of one decoding: both models' values, the change, and what its interval allows to say."""

    metric: str
    decoding: str
    base: Interval
    aligned: Interval
    change: Interval
    relative: Interval
    outcome: Outcome

    @property
    def title(self) -> str:
        """Its name without unit and arrow."""
        return ROW_TITLES.get(self.metric, self.metric).rstrip(" ↓↑").removesuffix(", %")

    @property
    def plain(self) -> str:
        """What it is, in plain words; empty for a metric that is not known."""
        return PLAIN_WORDS.get(self.metric, "")

    @property
    def percent(self) -> bool:
        """Whether it is a share, printed in percent."""
        return scale_and_digits(self.metric)[0] == 100

    def show(self, interval: Interval, part: str = "value", *, sign: bool = False) -> str:
        """A value or a bound as it is printed, with a true minus; a dash where there is none."""
        number = interval[part]
        if number is None:
            return "–"
        scale, digits = scale_and_digits(self.metric)
        return signed(number * scale, digits, sign)


def signed(number: float, digits: int, sign: bool = True) -> str:
    """A number with a typographic minus; one that is rounded to zero has no minus."""
    text = f"{number:{'+' if sign else ''}.{digits}f}"
    if float(text) == 0:
        text = text.replace("-", "+" if sign else "")
    return text.replace("-", "−")


def outcome(change: Interval, wanted: Literal["lower", "higher"] | None) -> Outcome:
    """What the interval of a change (aligned − base) allows to say.

    ``better`` or ``worse`` only if the interval lies wholly on one side of zero, ``changed`` if it does and neither
    side is better, ``open`` if it holds zero or there is none, ``undefined`` without a change.

    Args:
        change: Its value and bounds.
        wanted: Which way is better, if any.
    """
    if change["value"] is None:
        return "undefined"
    low, high = change["low"], change["high"]
    if low is None or high is None or low <= 0 <= high:
        return "open"
    if wanted is None:
        return "changed"
    return "better" if (wanted == "higher") == (low > 0) else "worse"


def findings(comparison: Mapping[str, Any], decoding: str) -> list[Finding]:
    """Every metric of a decoding that one of the models has, in the comparison's order."""
    base, aligned, change = (comparison[part][decoding] for part in ("base", "aligned", "change"))
    return [
        Finding(
            name,
            decoding,
            base[name],
            aligned[name],
            change[name],
            change[f"{name}_relative"],
            outcome(change[name], better_when(name)),
        )
        for name in base
        if base[name]["value"] is not None or aligned[name]["value"] is not None
    ]


def headlines(found: Sequence[Finding]) -> list[Finding]:
    """Those that the verdict is about, in its order."""
    by_name = {finding.metric: finding for finding in found}
    return [by_name[name] for name in HEADLINES if name in by_name and by_name[name].outcome != "undefined"]


def verdict(found: Sequence[Finding]) -> str:
    """One sentence on one decoding: what its intervals show, the good first, and what they leave open."""
    told = headlines(found)
    if not told:
        return "Nothing was measured that the two models could be compared by."
    good, bad, unsure = ([_phrase(one, kind) for one in told if one.outcome == kind] for kind in _KINDS)
    shown = ", but ".join(_listed(phrases) for phrases in (good, bad) if phrases)
    if shown and unsure:
        return f"The aligned model {shown}; these data leave open {_listed(unsure)}."
    return f"The aligned model {shown}." if shown else f"These data leave open {_listed(unsure)}."


def _phrase(finding: Finding, kind: Outcome) -> str:
    words = HEADLINES[finding.metric][_KINDS.index(kind)]
    # Spaces that do not break: numbers stay together.
    return f"{words} ({finding.show(finding.base)}\u00a0→\u00a0{finding.show(finding.aligned)}\u00a0%)"


def _listed(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
