"""How much worse than in `docs/bench.json` a ratio may be before the default tests fail."""

import json
from pathlib import Path

BENCH = Path(__file__).parents[2] / "docs" / "bench.json"
# Little work, measured once on whatever machine.
LEEWAY = 3


def least_ratio(title: str, against: str, otherwise: float, file: Path = BENCH) -> float:
    """What another way's time over ours must be at least: a third of the stored median, and never less than ours.

    Args:
        title: Of the row, as `make bench` writes it.
        against: Of the row.
        otherwise: The median while there is no file.
        file: What `make bench` writes.

    Raises:
        KeyError: If the file has no such row, or the row no median.
    """
    return max(_median(title, against, otherwise, file) / LEEWAY, 1.0)


def most_ratio(title: str, against: str, otherwise: float, file: Path = BENCH) -> float:
    """What our time over a floor's may be at most: three times the stored median; else as ``least_ratio``."""
    return _median(title, against, otherwise, file) * LEEWAY


def _median(title: str, against: str, otherwise: float, file: Path) -> float:
    if not file.exists():
        return otherwise
    rows = {(row["title"], row["against"]): row for row in json.loads(file.read_text(encoding="utf-8"))["rows"]}
    row = rows.get((title, against))
    if row is None:
        there = "; ".join(f"{a!r} against {b!r}" for a, b in rows)
        raise KeyError(
            f"{file.name} has no row {title!r} against {against!r}: `make bench` again, or rename it here. "
            f"It has {there}"
        )
    if row.get("median") is None:
        raise KeyError(f"{title!r} against {against!r} was not measured ({row.get('missing')}): `make bench` again")
    return row["median"]
