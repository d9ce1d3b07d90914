"""Predictions that were made elsewhere: which rows can be scored, and what is wrong with the others, line by line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fisao_pipeline.ingestion.rejections import Rejection, rejections_table, summarise

COLUMNS = ["line", "item_id", "response"]
_EXAMPLES = 5


@dataclass(frozen=True)
class Predictions:
    """The usable rows of a file, and what was left out.

    Attributes:
        table: ``line``, ``item_id``, ``response`` and the further fields that were asked for, in file order.
        rejected: The other rows, and ids without a prediction: ``kind``, ``name``, ``reason``.
        rows: How many rows the file holds.
        missing: How many of ``rejected`` are ids without a prediction.
        unanswered: How many more ids have none, which is no fault: a file may be about a part of the images.
    """

    table: pd.DataFrame
    rejected: pd.DataFrame
    rows: int
    missing: int
    unanswered: int = 0

    def counts(self) -> dict[str, Any]:
        """What a result has to say: rows, scored, left out by reason, unanswered, empty, and not in Latin letters."""
        reasons = [reason.split(":", 1)[0] for reason in self.rejected["reason"]]
        texts = [text for text in self.table["response"] if isinstance(text, str)]
        return {
            "rows": self.rows,
            "scored": len(self.table),
            "left_out": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
            "unanswered": self.unanswered,
            "empty": sum(not text.strip() for text in texts),
            "not_in_latin_letters": sum(map(_is_foreign, texts)),
        }


def read_predictions(
    rows: Iterable[tuple[int, Any, str | None]],
    source: str,
    *,
    id_field: str | None,
    value_field: str,
    find_id: Callable[[Any], str | None],
    expected: Collection[str] = (),
    known: Collection[str] = (),
    several: bool = False,
    read_value: Callable[[Any], Any] | None = None,
    more_fields: Sequence[str] = (),
    check: Callable[[dict[str, Any]], str | None] | None = None,
) -> Predictions:
    """Take the usable rows of a file.

    Args:
        rows: ``(number, value, fault)`` of each row, see ``datasets.json_stream.tolerant_rows``.
        source: Name of the file, for messages.
        id_field: Field that names what is answered; None where rows answer the expected ids one by one in their order.
        value_field: Field of the answer.
        find_id: From that field's content to the id that the annotations use; None for what they do not hold.
        expected: Ids that must have a prediction each.
        known: Ids of which those without a prediction are counted, as no fault.
        several: Whether an id may have several; else only the first counts.
        read_value: From the answer's field to the answer, or ValueError with the reason; by default it must be text,
            which may be empty.
        more_fields: Further fields to keep; a row without one of them is faulty.
        check: What else is wrong with a row that has all its fields; None where nothing is.
    """
    in_order = list(expected) if id_field is None else None
    read_value = read_value or _text
    table: list[tuple[Any, ...]] = []
    rejections: list[Rejection] = []
    seen: set[str] = set()
    last = number = 0
    for last, (number, value, fault) in enumerate(rows, start=1):
        try:
            if fault is not None:
                raise ValueError(fault)
            if not isinstance(value, dict):
                raise ValueError(f"not an object: {type(value).__name__}")
            if in_order is not None:
                item_id = in_order[last - 1] if last <= len(in_order) else None
            else:
                item_id = _id(value, id_field, find_id)
            if item_id is None:
                raise ValueError(f"more rows than questions: there are {len(in_order or ())}")
            answer = read_value(_field(value, value_field))
            more = [_field(value, name) for name in more_fields]
            if check is not None and (problem := check(value)) is not None:
                raise ValueError(problem)
            if item_id in seen and not several:
                raise ValueError(f"duplicate: {item_id} has a prediction already")
            seen.add(item_id)
            table.append((number, item_id, answer, *more))
        except ValueError as reason:
            rejections.append(Rejection("prediction", f"{source} line {number}", str(reason)))
    missing = [item_id for item_id in dict.fromkeys(expected) if item_id not in seen]
    rejections += [Rejection("prediction", f"{source} id {item_id}", "missing: no prediction") for item_id in missing]
    frame = pd.DataFrame(table, columns=[*COLUMNS, *more_fields]).astype({"line": "int64", "item_id": "str"})
    unanswered = len(set(known) - seen - set(missing))
    return Predictions(frame, rejections_table(rejections), last, len(missing), unanswered)


def require_enough(predictions: Predictions, source: str, max_share: float) -> None:
    """Refuse a file of which too much cannot be used.

    Raises:
        ValueError: Nothing is usable, or more than the share; the message names the first faults by line.
    """
    faults, rows = len(predictions.rejected), predictions.rows + predictions.missing
    if not len(predictions.table):
        detail = f": {_listed(predictions.rejected)}" if faults else ": it holds no row"
        raise ValueError(f"{source}: no prediction can be scored{detail}")
    if faults > max_share * rows:
        raise ValueError(
            f"{source}: {faults} of {rows} predictions cannot be scored: {_listed(predictions.rejected)}. Mend them, "
            "or raise score_predictions.max_faulty_share to score the rest"
        )


def _listed(rejected: pd.DataFrame) -> str:
    first = [
        f"{name.rsplit('/', 1)[-1]}: {reason}" for name, reason in rejected[["name", "reason"]].head(_EXAMPLES).values
    ]
    return f"{summarise(rejected)}. First: {'; '.join(first)}"


def _id(row: dict[str, Any], name: str, find_id: Callable[[Any], str | None]) -> str:
    value = _field(row, name)
    item_id = find_id(value)
    if item_id is None:
        raise ValueError(f"unknown id: {name} {repr(value)[:60]} is in no annotation")
    return item_id


def _field(row: dict[str, Any], name: str) -> Any:
    if row.get(name) is None:
        there = ", ".join(map(repr, list(row)[:8])) or "nothing"
        raise ValueError(f"no field {name!r}: the row holds {there}")
    return row[name]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"not text: {type(value).__name__}")
    if any("\ud800" <= sign <= "\udfff" for sign in value):
        raise ValueError("not Unicode: half of a surrogate pair")
    return value


def read_words(value: Any) -> list[str]:
    """A list of words, for `read_predictions`.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, list):
        raise ValueError(f"not a list of words: {type(value).__name__}")
    return [_text(word) for word in value]


def read_cosine(value: Any) -> float:
    """A cosine, for `read_predictions`.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1.000001 <= value <= 1.000001:
        raise ValueError(f"not a cosine: {value!r:.60}")
    return float(value)


def _is_foreign(text: str) -> bool:
    letters = [sign for sign in text[:1000] if sign.isalpha()]
    return 2 * sum(sign > "\u024f" for sign in letters) > len(letters)
