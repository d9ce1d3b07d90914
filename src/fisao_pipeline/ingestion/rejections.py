"""The table of what was refused and why, and the one line that says so in the log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import pandas as pd

logger = logging.getLogger(__name__)

_EXAMPLES = 3


class Rejection(NamedTuple):
    """One refused thing; ``reason`` reads ``class of problem: detail``, so that reasons can be counted by class."""

    kind: Literal["image", "annotation", "prompt", "prediction"]
    name: str
    reason: str


def rejections_table(rejections: Iterable[Rejection]) -> pd.DataFrame:
    """Return the rows as the columns of every table of rejections; text that is no valid Unicode is escaped."""
    rows = [Rejection(kind, _printable(name), _printable(reason)) for kind, name, reason in rejections]
    return pd.DataFrame(rows, columns=list(Rejection._fields), dtype="str")


def collect_rejections(*tables: pd.DataFrame, listed_in: str) -> pd.DataFrame:
    """Join the tables of all steps and say in one warning how many of each kind were refused for which reason.

    Args:
        tables: What each step refused.
        listed_in: The artifact that the result becomes, named in the warning.
    """
    rejected = pd.concat(tables, ignore_index=True)
    if len(rejected):
        kinds = [f"{len(rows)} of kind {kind}: {summarise(rows)}" for kind, rows in rejected.groupby("kind", sort=True)]
        logger.warning("Rejected %s. The table `%s` lists each one.", ". ".join(kinds), listed_in)
    return rejected


def summarise(rejected: pd.DataFrame) -> str:
    """Return ``count x class (first names)`` for each class of reason, most frequent first."""
    classes = [reason.split(":", 1)[0] for reason in rejected["reason"]]
    names: dict[str, list[str]] = {}
    for reason_class, name in zip(classes, rejected["name"], strict=True):
        names.setdefault(reason_class, []).append(name)
    return "; ".join(
        f"{count} x {reason_class} ({', '.join(names[reason_class][:_EXAMPLES])}{', …' if count > _EXAMPLES else ''})"
        for reason_class, count in Counter(classes).most_common()
    )


def as_id(value: Any) -> str | None:
    """Return an id as text, so that 7, 7.0 and "7" are one id; None for what cannot be an id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return as_text(value)


def as_text(value: Any) -> str | None:
    """Return stripped text, or None for anything that is not text, is blank or cannot be stored as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        return None
    return value.strip() if _printable(value) == value else None


def _printable(text: str) -> str:
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")
