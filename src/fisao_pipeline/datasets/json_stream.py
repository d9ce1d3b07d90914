"""JSON that is larger than memory should be: lists are found once and read row by row, each time they are asked for."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kedro.io import DatasetError

_CHUNK_BYTES = 1 << 20
# A fault this close to the end of what was read may be mended by the rest: `-Infinity`, `\uXXXX\uXXXX`.
_CUT_OFF_CHARACTERS = 16
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class _Mark(NamedTuple):
    """A place in a file: its byte, and the line and column (from 1) that messages name."""

    byte: int
    line: int
    column: int


class JsonRows(Collection[Any]):
    """The rows of a JSON list or of a JSON Lines file; each iteration reads the file anew, one row in memory at a time.

    Equal to a list of equal rows. Iterating raises ``DatasetError`` where the file is gone or was changed meanwhile.
    """

    def __init__(self, path: Path, mark: _Mark | None, length: int) -> None:
        """Point at a list inside a file.

        Args:
            path: The file.
            mark: Where the list begins; None for JSON Lines.
            length: Number of rows.
        """
        self._path, self._mark, self._length = path, mark, length

    def __iter__(self) -> Iterator[Any]:
        if self._mark is None:
            yield from _lines(self._path)
        else:
            with _Window(self._path, self._mark) as window:
                yield from window.rows()

    def __len__(self) -> int:
        return self._length

    def __contains__(self, row: object) -> bool:
        return any(row == own for own in self)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, JsonRows | list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"JsonRows({self._path.name}, {self._length} rows)"


class JsonObject(Mapping[str, Any]):
    """The object at the top of a JSON file: its lists are :class:`JsonRows`, all other values are in memory."""

    def __init__(self, values: dict[str, Any]) -> None:
        """Take the values by key."""
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"JsonObject({self._values})"


def open_json(path: Path) -> Any:
    """Read a JSON file through once, keep where its lists begin, and return it without their rows.

    Returns:
        A :class:`JsonObject`, :class:`JsonRows`, or a scalar, by what stands at the top of the file.

    Raises:
        DatasetError: The file is no valid JSON or no UTF-8; the message names file, line and column.
    """
    with _Window(path, _Mark(_bom_bytes(path), 1, 1)) as window:
        content: Any
        if window.peek() == "{":
            content = JsonObject(dict(window.members()))
        elif window.peek() == "[":
            content = window.list_here()
        else:
            content = window.value()
        window.require_end()
    return content


def open_json_lines(path: Path) -> JsonRows:
    """Read a JSON Lines file through once and return its rows; blank lines are none.

    Raises:
        DatasetError: A line is no valid JSON, or the file no UTF-8.
    """
    return JsonRows(path, None, sum(1 for _ in _lines(path)))


class JsonRow(NamedTuple):
    """One row of a file that may hold faulty ones.

    Attributes:
        number: Its line in JSON Lines, its place in a JSON list; from 1.
        value: What it holds; None when it is faulty.
        fault: Why it cannot be read, ``class of problem: detail``; None when it can.
    """

    number: int
    value: Any
    fault: str | None


def tolerant_rows(path: Path) -> Iterator[JsonRow]:
    """Yield the rows of a JSON Lines file, or of a JSON list, whatever the file is called, one in memory at a time.

    A line that is no JSON or no UTF-8 is a row with a fault, and the next one is read; blank lines are none.

    Raises:
        DatasetError: A JSON list that breaks off or is malformed: where its next row begins is not known.
    """
    if _first_sign(path) == b"[":
        content = open_json(path)
        yield from (JsonRow(number, row, None) for number, row in enumerate(content, start=1))
        return
    with path.open("rb") as stream:
        stream.seek(_bom_bytes(path))
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _tolerant_row(number, line)


def _first_sign(path: Path) -> bytes:
    with path.open("rb") as stream:
        stream.seek(_bom_bytes(path))
        while sign := stream.read(1):
            if sign.strip():
                return sign
    return b""


def _tolerant_row(number: int, line: bytes) -> JsonRow:
    try:
        return JsonRow(number, json.loads(line.decode("utf-8")), None)
    except UnicodeDecodeError as error:
        return JsonRow(number, None, f"not UTF-8: {error.reason} at byte {error.start + 1} of the line")
    except json.JSONDecodeError as error:
        return JsonRow(number, None, f"not JSON: {error.msg} at column {error.colno}")
    except RecursionError:
        return JsonRow(number, None, "not JSON: nested too deeply")
    except ValueError as error:  # a number of more digits than Python reads
        return JsonRow(number, None, f"not JSON: {error}")


def _bom_bytes(path: Path) -> int:
    with path.open("rb") as stream:
        return len(codecs.BOM_UTF8) if stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0


def _lines(path: Path) -> Iterator[Any]:
    try:
        # Lines of a file, not splitlines(): that also breaks at U+2028 and others, legal inside a JSON string.
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _parse_line(path, line.removesuffix("\n"), number)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: {error}") from error


def _parse_line(path: Path, text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {number + error.lineno - 1}, column {error.colno}"
        raise DatasetError(f"{path} is not valid JSON at {where}: {error.msg}.") from error
    except RecursionError as error:
        raise DatasetError(f"{path}: the JSON that begins on line {number} is nested too deeply.") from error


class _Window:
    """The part of a file that is in memory, moving from a mark towards the end; one value has to fit into it."""

    def __init__(self, path: Path, mark: _Mark) -> None:
        self._path = path
        self._start = mark
        self._text = ""
        self._at = 0
        self._ended = False
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def __enter__(self) -> _Window:
        self._stream = self._path.open("rb")
        self._stream.seek(self._start.byte)
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def peek(self) -> str:
        """Skip white space; the next character, empty at the end of the file."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def value(self) -> Any:
        """Decode the value that begins here."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                near_end = error.pos + _CUT_OFF_CHARACTERS >= len(self._text)
                if (near_end or error.msg.startswith("Unterminated string")) and self._more():
                    continue
                raise self._fault(error.msg, error.pos) from error
            except RecursionError as error:
                line = self._mark_at(self._at).line
                message = f"{self._path}: the JSON that begins on line {line} is nested too deeply."
                raise DatasetError(message) from error
            near_end = end + _CUT_OFF_CHARACTERS >= len(self._text)
            if near_end and not isinstance(value, str | list | dict) and self._more():
                continue  # Of a number these may have been the first digits.
            self._at = end
            return value

    def rows(self) -> Iterator[Any]:
        """Yield the values of the list that begins here."""
        self._take("[")
        if self.peek() == "]":
            self._take("]")
            return
        while True:
            yield self.value()
            if self._take(",", "]") == "]":
                return

    def list_here(self) -> JsonRows:
        """Read over the list that begins here and return it without its rows."""
        mark = self._mark_at(self._at)
        return JsonRows(self._path, mark, sum(1 for _ in self.rows()))

    def members(self) -> Iterator[tuple[str, Any]]:
        """Yield the keys and values of the object that begins here, lists without their rows."""
        self._take("{")
        if self.peek() == "}":
            self._take("}")
            return
        while True:
            if self.peek() != '"':
                raise self._fault("Expecting property name enclosed in double quotes", self._at)
            key = self.value()
            self._take(":")
            yield key, self.list_here() if self.peek() == "[" else self.value()
            if self._take(",", "}") == "}":
                return

    def require_end(self) -> None:
        """Raise where anything but white space follows."""
        if self.peek():
            raise self._fault("Extra data", self._at)

    def _take(self, *characters: str) -> str:
        found = self.peek()
        if found not in characters or not found:
            raise self._fault(f"Expecting {' or '.join(map(repr, characters))}", self._at)
        self._at += 1
        return found

    def _more(self) -> bool:
        """Forget what was used and read on, the more the longer a value; at the end of the file change nothing."""
        chunk = b"" if self._ended else self._stream.read(max(_CHUNK_BYTES, len(self._text) - self._at))
        self._ended = not chunk
        try:
            more = self._decoder.decode(chunk, final=self._ended)
        except UnicodeDecodeError as error:
            raise DatasetError(f"{self._path} is not UTF-8 text: {error}") from error
        if self._ended:
            return False
        self._start = self._mark_at(self._at)
        self._text, self._at = self._text[self._at :] + more, 0
        return True

    def _mark_at(self, position: int) -> _Mark:
        used = self._text[:position]
        lines = used.count("\n")
        column = len(used) - used.rfind("\n") if lines else self._start.column + len(used)
        return _Mark(self._start.byte + len(used.encode("utf-8")), self._start.line + lines, column)

    def _fault(self, message: str, position: int) -> DatasetError:
        mark = self._mark_at(position)
        return DatasetError(f"{self._path} is not valid JSON at line {mark.line}, column {mark.column}: {message}.")
