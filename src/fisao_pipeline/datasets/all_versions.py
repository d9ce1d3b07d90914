"""Every version of a versioned artifact, and others of its kind from elsewhere, for a node that is told which."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pandas as pd
from kedro.io import AbstractDataset, DatasetError
from kedro.utils import find_kedro_project

from fisao_pipeline.datasets.atomic import PROVENANCE_FILE, AtomicDataset
from fisao_pipeline.datasets.contents import HashFile, content_of_files
from fisao_pipeline.datasets.json_stream import open_json, open_json_lines
from fisao_pipeline.datasets.preview import of_names, read_provenance
from fisao_pipeline.suggestions import did_you_mean

LATEST = "latest"
_READ = (".parquet", ".json", ".jsonl", ".ndjson")


class FoundTable(NamedTuple):
    """A table, where it was found, and how it came about as far as a `provenance.json` beside it tells."""

    source: str
    table: pd.DataFrame
    provenance: dict[str, Any] | None


class AllVersions:
    """The versions of one artifact."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def versions(self) -> list[str]:
        """All versions, the oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path.parent.name for path in self.folder.glob(f"[!.]*/{self.folder.name}"))

    def read(self, source: str) -> FoundTable:
        """A version by its name, the `latest`, or a file: Parquet, a JSON list of rows, or JSON Lines.

        Raises:
            DatasetError: There is none of this name, or it cannot be read as a table.
        """
        name, path = self.find(source)
        if path.suffix.lower() not in _READ or not path.is_file():
            raise DatasetError(f"'{source}' is none of {', '.join(_READ)}: a table of predictions is one of these")
        table = _parquet(path) if path.suffix.lower() == ".parquet" else _from_json(path)
        return FoundTable(name, table, read_provenance(path.with_name(PROVENANCE_FILE)))

    def find(self, source: str) -> tuple[str, Path]:
        """Name and place of a version by its name, of the `latest`, or of a file or folder elsewhere.

        Raises:
            DatasetError: There is none of this name.
        """
        versions = self.versions()
        version = versions[-1] if source == LATEST and versions else source
        if version in versions:
            return version, self.folder / version / self.folder.name
        # Relative to the project, wherever the command was given.
        path = (find_kedro_project(Path.cwd()) or Path.cwd()) / Path(source).expanduser()
        if not path.exists():
            listed = f"there are {', '.join(versions[-5:])}" if versions else "there are none yet"
            raise DatasetError(
                f"'{source}' is neither a version of '{self.folder.name}' ({listed}){did_you_mean(source, versions)} "
                "nor a file or folder"
            )
        return source, path


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return AtomicDataset(filepath=path.as_posix(), dataset="pandas.ParquetDataset").load()
    except (DatasetError, OSError, ValueError) as error:
        raise DatasetError(f"{path} is no Parquet file that can be read: {error}") from error


def _from_json(path: Path) -> pd.DataFrame:
    content = open_json(path) if path.suffix.lower() == ".json" else open_json_lines(path)
    try:
        rows = list(content)
    except TypeError:
        rows = [None]
    strange = next((number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)), None)
    if strange is not None or not rows:
        raise DatasetError(f"{path} holds no list of rows, each an object" + (f": row {strange}" if rows else ""))
    return pd.DataFrame(rows)


class AllVersionsDataset(AbstractDataset[NoReturn, AllVersions]):
    """Loads an `AllVersions`, through which a node reads those versions that its parameters name.

    ```yaml
    predictions_versions:
      type: fisao_pipeline.datasets.AllVersionsDataset
      filepath: data/07_model_output/predictions.parquet    # of the entry `predictions`
    ```

    Kedro loads one version of an entry in a run; a comparison of runs needs several.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Point at the folder of the versions.

        Args:
            filepath: Of the versioned entry.
            metadata: Ignored here, read by Kedro-Viz.
        """
        self._versions = AllVersions(Path(filepath))
        self.metadata = metadata

    def load(self) -> AllVersions:
        """The versions."""
        return self._versions

    def save(self, data: NoReturn) -> None:
        """Refused.

        Raises:
            DatasetError: Always.
        """
        raise DatasetError("Versions are written through the entry that they are versions of.")

    def content(self, hash_file: HashFile) -> str:
        """What tells these versions from any others: all of them, since a node may read any."""
        versions = self._versions
        paths = {version: versions.folder / version / versions.folder.name for version in versions.versions()}
        return content_of_files(paths, hash_file)

    def glimpse(self) -> list[str]:
        """The versions, the newest first."""
        return of_names("versions", self._versions.versions()[::-1])

    def _exists(self) -> bool:
        return True  # a run may compare files alone

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._versions.folder.as_posix(), "versions": len(self._versions.versions())}
