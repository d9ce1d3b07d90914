"""Small drawings in table cells: values and their intervals on one axis. Positions are percent of the cell's width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Interval = Mapping[str, float | None]
MARGIN = 3.0  # percent that is left free at both ends, so that a dot is whole


@dataclass(frozen=True)
class Whisker:
    """A value with its bounds, each a position."""

    low: float
    value: float
    high: float
    colour: str


@dataclass(frozen=True)
class Mark:
    """What one cell shows: whiskers from top to bottom, and where zero is if the axis has it inside."""

    whiskers: tuple[Whisker, ...]
    zero: float | None = None


def models_mark(base: Interval, aligned: Interval, top: float) -> Mark:
    """Both models' values on an axis from 0 to ``top``."""
    pairs = ((base, "grey"), (aligned, "green"))
    return Mark(tuple(_whisker(one, 0, top, colour) for one, colour in pairs if one["value"] is not None))


def change_mark(change: Interval, reach: float) -> Mark | None:
    """A change on an axis from −``reach`` to ``reach``; None without a value."""
    if change["value"] is None:
        return None
    return Mark((_whisker(change, -reach, reach, "ink"),), zero=50.0)


def reach(changes: Sequence[Interval]) -> float:
    """The axis that all these changes need, their bounds included."""
    numbers = [change[part] for change in changes for part in ("low", "value", "high")]
    return max((abs(number) for number in numbers if number is not None), default=0.0) or 1.0


def _whisker(interval: Interval, start: float, end: float, colour: str) -> Whisker:
    value = interval["value"]
    low, high = (value if interval[part] is None else interval[part] for part in ("low", "high"))
    return Whisker(*(_position(number, start, end) for number in (low, value, high)), colour)


def _position(number: float, start: float, end: float) -> float:
    share = min(max((number - start) / (end - start), 0.0), 1.0)
    return round(MARGIN + (100 - 2 * MARGIN) * share, 2)
