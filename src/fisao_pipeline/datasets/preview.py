"""What Kedro-Viz shows of an artifact: its first rows or keys, and where it came from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from kedro_datasets._typing import JSONPreview, TablePreview

CELL_CHARACTERS = 120


def preview_parquet(path: Path, nrows: int = 5) -> TablePreview:
    """The first rows of a parquet file, read without reading the rest.

    Args:
        path: The file.
        nrows: How many rows.

    Returns:
        `index`, `columns` and `data`, with only texts, numbers and nulls in the cells: Kedro-Viz cannot draw lists.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import, and only previews and saves need it

    with pq.ParquetFile(path) as file:
        columns = file.schema_arrow.names
        batch = next(file.iter_batches(batch_size=max(nrows, 1)), None)
    rows = batch.slice(0, nrows).to_pylist() if batch is not None else []
    columns = [name for name in columns if not name.startswith("__index_level_")]
    data = [[_cell(row[name]) for name in columns] for row in rows]
    return TablePreview({"index": list(range(len(rows))), "columns": columns, "data": data})


def preview_json(content: Any, provenance: dict[str, Any] | None) -> JSONPreview:
    """A JSON document together with the part of its provenance that tells one version from another."""
    if provenance is None:
        return JSONPreview(json.dumps(content))
    return JSONPreview(json.dumps({"content": content, "provenance": summarise(provenance)}))


def summarise(provenance: dict[str, Any]) -> dict[str, Any]:
    """The version, runs, commit, inputs and parameters of a provenance record, without the library versions."""
    keys = ("version", "created", "mlflow_run_id", "git_commit", "git_dirty", "inputs", "parameters")
    return {key: provenance[key] for key in keys if key in provenance}


def read_provenance(path: Path | None) -> dict[str, Any] | None:
    """The provenance record at `path`, or None when there is none or it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path is not None else None
    except (OSError, ValueError):
        return None


def _cell(value: Any) -> str | int | float | None:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"
