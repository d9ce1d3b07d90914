"""How much worse than in `docs/bench.json` a guarded ratio may be before the default tests fail."""

import json
from pathlib import Path

BENCH = Path(__file__).parents[2] / "docs" / "bench.json"
# Measured again, ratios lie within a fifth of each other on one machine; another kind of processor may be further off.
LEEWAY = 2


def limit(title: str, against: str, is_floor: bool, file: Path = BENCH) -> float:
    """What a ratio must be: half the stored median at least and never less than 1, or twice a floor's at most.

    Args:
        title: Of the row, as `make bench` writes it.
        against: Of the row.
        is_floor: Whether the ratio is our time over a floor's, so that less is better.
        file: What `make bench` writes.

    Raises:
        KeyError: If the file has no such row, or the row no median.
    """
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
    return row["median"] * LEEWAY if is_floor else max(row["median"] / LEEWAY, 1.0)
