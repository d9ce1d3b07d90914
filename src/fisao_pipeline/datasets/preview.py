"""The beginning of an artifact as a few lines of text, read without reading the rest, and the record beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

CELL_CHARACTERS = 48
LINE_CHARACTERS = 160
LINES = 60


def of_table(path: Path, rows: int = 3) -> list[str]:
    """The first rows of a parquet file, a line for each column: tables here are wider than they need be long.

    Args:
        path: The file.
        rows: How many.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import, and only previews and saves need it

    with pq.ParquetFile(path) as file:
        count, names = file.metadata.num_rows, file.schema_arrow.names
        batch = next(file.iter_batches(batch_size=rows), None)
    shown = batch.slice(0, rows).to_pylist() if batch is not None else []
    names = [name for name in names if not name.startswith("__index_level_")]
    cells = [f"{name}: {' │ '.join(_cell(row[name]) for row in shown)}" for name in names]
    return [f"first {len(shown)} of {count:,} rows, a line for each column:", *cells]


def of_json(content: Any) -> list[str]:
    """The first lines of a JSON document."""
    return of_lines(json.dumps(content, indent=1, ensure_ascii=False, default=str).splitlines())


def of_lines(lines: Iterable[str]) -> list[str]:
    """As many lines of a text as a preview has room for; the last one says so where there are more."""
    first = list(islice(lines, LINES + 1))
    kept = [_cut(line.rstrip(), LINE_CHARACTERS) for line in first[:LINES]]
    return [*kept, "…"] if len(first) > LINES else kept


def of_names(what: str, names: Sequence[str], shown: int = 20) -> list[str]:
    """How many of something there are, and the first by name."""
    more = [f"… and {len(names) - shown:,} more"] if len(names) > shown else []
    return [f"{len(names):,} {what}", *(_cut(name, LINE_CHARACTERS) for name in names[:shown]), *more]


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return _cut(" ".join(text.split()), CELL_CHARACTERS)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def read_provenance(path: Path | None) -> dict[str, Any] | None:
    """The provenance record at `path`, or None when there is none or it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path is not None else None
    except (OSError, ValueError):
        return None
