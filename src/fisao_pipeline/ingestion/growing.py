"""A table that is filled row by row without a Python object for each of its cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

_PART_ROWS = 100_000


class GrowingTable:
    """Rows in, a data frame out, held in parts: as Python objects a million rows would take five times its memory."""

    def __init__(self, columns: Sequence[str]) -> None:
        """Name the columns."""
        self._columns = list(columns)
        self._rows: list[tuple[Any, ...]] = []
        self._parts: list[pd.DataFrame] = []

    def add(self, *row: Any) -> None:
        """Append a row, its cells in the order of the columns."""
        self._rows.append(row)
        if len(self._rows) == _PART_ROWS:
            self._close_part()

    def table(self) -> pd.DataFrame:
        """Return all rows; the last call, since the parts go into it."""
        if self._rows or not self._parts:
            self._close_part()
        return pd.concat(self._parts, ignore_index=True) if len(self._parts) > 1 else self._parts[0]

    def _close_part(self) -> None:
        self._parts.append(pd.DataFrame(self._rows, columns=self._columns))
        self._rows = []
