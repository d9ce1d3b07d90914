"""JSON and JSON Lines that a user may or may not bring; what cannot be parsed is reported by file, line and column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from kedro.io import AbstractDataset, DatasetError
from kedro.utils import find_kedro_project

from fisao_pipeline.datasets.contents import HashFile, content_of_files
from fisao_pipeline.datasets.json_stream import open_json, open_json_lines
from fisao_pipeline.datasets.preview import of_lines
from fisao_pipeline.datasets.publish import Recorded, publish_in_place
from fisao_pipeline.suggestions import how_to_bring

_LINE_SUFFIXES = frozenset({".jsonl", ".ndjson"})
_PREVIEW_CHARACTERS = 2000


class JsonFile(NamedTuple):
    """One parsed file: its base name (for messages) and its content.

    Rows of JSON Lines and lists of JSON are :class:`~fisao_pipeline.datasets.json_stream.JsonRows`: they stay in the
    file and are read one by one whenever they are iterated, so a file of gigabytes takes no memory to speak of.
    """

    name: str
    content: Any


class JsonFilesDataset(Recorded, AbstractDataset[Any, list[JsonFile] | None]):
    """No, one or several JSON or JSON Lines files, told apart by their extension.

    ``filepath: null`` loads as None, which is how an optional input is left out; a path that is given must exist.

    Example:
        .. code-block:: yaml

            raw_annotations:
              type: fisao_pipeline.datasets.json_files.JsonFilesDataset
              filepath:
                - data/01_raw/instances_val2017.json
                - data/01_raw/captions_val2017.json
    """

    def __init__(
        self,
        *,
        filepath: str | list[str] | None = None,
        overwrite: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Name the files; nothing is read until load.

        Args:
            filepath: None, one path or several.
            overwrite: Whether save may replace a file that is there; off, so that no run replaces a user's own file.
            metadata: For Kedro-Viz and other plugins, not read here.
        """
        if filepath is None or isinstance(filepath, str):
            self._paths = [] if filepath is None else [Path(filepath)]
        else:
            # Kedro makes a lone `filepath` absolute before it gets here, but not the items of a list.
            project = find_kedro_project(Path.cwd()) or Path.cwd()
            self._paths = [project / path for path in filepath]
        self._overwrite = overwrite
        self.metadata = metadata

    def load(self) -> list[JsonFile] | None:
        """Return the parsed files in the order given, or None where no path is set.

        Raises:
            DatasetError: A file is missing or malformed.
        """
        return [JsonFile(path.name, _read(path)) for path in self._paths] if self._paths else None

    def save(self, data: Any) -> None:
        """Write one file, atomically: any JSON value, or for JSON Lines an iterable of rows.

        Raises:
            DatasetError: Not exactly one path is set, or the file exists and ``overwrite`` is off.
        """
        if len(self._paths) != 1:
            raise DatasetError(f"Saving needs exactly one `filepath`, this entry has {len(self._paths)}.")
        path = self._paths[0]
        if path.exists() and not self._overwrite:
            raise DatasetError(f"{path} exists and is left as it is: set `overwrite: true` or another `filepath`.")
        with publish_in_place(path) as fresh:
            fresh.write_text(_format(path, data), encoding="utf-8")
        self._record(path, self.provenance_path())

    def content(self, hash_file: HashFile, _at: Path | None = None) -> str:
        """What tells the files' content from any other, in their order; no files are a content too.

        Raises:
            OSError: A file is missing or cannot be read.
        """
        return content_of_files({f"{n:04d} {path.name}": path for n, path in enumerate(self._paths)}, hash_file)

    def size(self) -> int:
        """Bytes of the files, those that are there."""
        return sum(path.stat().st_size for path in self._paths if path.is_file())

    def provenance_path(self, _version: str | None = None) -> Path | None:
        """Beside the file, hidden; None where the entry has none or several, which no run writes."""
        return self._paths[0].with_name(f".{self._paths[0].name}.provenance.json") if len(self._paths) == 1 else None

    def glimpse(self) -> list[str]:
        """Names of the files and the beginning of each."""
        starts = [[path.name, *of_lines(_start_of(path).splitlines())] for path in self._paths]
        return [line for lines in starts for line in lines] or ["No file: this input is left out."]

    def _exists(self) -> bool:
        return all(path.is_file() for path in self._paths)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": [str(path) for path in self._paths]}


def _read(path: Path) -> Any:
    if not path.is_file():
        remedy = how_to_bring(path, "`filepath` of this entry (`filepath: null` where you have none)")
        raise DatasetError(f"{path} does not exist. {remedy}")
    return open_json_lines(path) if path.suffix.lower() in _LINE_SUFFIXES else open_json(path)


def _start_of(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        return stream.read(_PREVIEW_CHARACTERS)


def _format(path: Path, data: Any) -> str:
    if path.suffix.lower() in _LINE_SUFFIXES:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data)
    return json.dumps(data, ensure_ascii=False)
