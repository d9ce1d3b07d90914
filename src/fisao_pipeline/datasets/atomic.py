"""A file dataset of kedro-datasets whose saves are atomic: a killed save never becomes the latest version."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset, AbstractVersionedDataset, DatasetError, Version

from fisao_pipeline.datasets.contents import HashFile, content_of
from fisao_pipeline.datasets.preview import of_json, of_lines, of_table
from fisao_pipeline.datasets.publish import Recorded, publish_in_place, publish_version

PROVENANCE_FILE = "provenance.json"


class AtomicVersions(Recorded, AbstractVersionedDataset[Any, Any]):
    """Base of datasets on a local file system that write into a hidden place and then rename.

    A subclass implements `_write(data, path)` and `_read(path)`; versions, publishing and provenance are here.
    """

    def __init__(self, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None) -> None:
        if "://" in str(filepath) and not str(filepath).startswith("file://"):
            raise DatasetError(f"'{filepath}' is not local: only a local file system renames a whole version at once.")
        super().__init__(PurePosixPath(str(filepath).removeprefix("file://")), version)
        self.metadata = metadata

    def load(self) -> Any:
        """Load the pinned or the latest version.

        Raises:
            DatasetError: There is none, or it cannot be read.
        """
        return self._read(Path(self._get_load_path()))

    def save(self, data: Any) -> None:
        """Write the data aside, flush it to the disk and publish it by a rename.

        Raises:
            DatasetError: Writing failed or the version exists; what was there before is untouched.
        """
        target = Path(self._get_save_path())
        publishing = (
            publish_version(Path(self._filepath), target.parent.name, target.name)
            if self._version
            else publish_in_place(target)
        )
        with publishing as staged:
            self._write(data, staged)
            if self._version:
                self._record(staged, staged.with_name(PROVENANCE_FILE))

    def version_path(self, version: str) -> Path:
        """Where a version is, or would be."""
        return Path(self._get_versioned_path(version))

    def provenance_path(self, version: str | None) -> Path | None:
        """Where the record of how a version came about belongs: beside the artifact in the version's folder."""
        return None if version is None else self.version_path(version).with_name(PROVENANCE_FILE)

    @property
    def folder(self) -> Path:
        """The folder of the versions; the artifact itself where there are none."""
        return Path(self._filepath)

    def versions(self) -> list[str]:
        """All versions, the oldest first; none for an entry that keeps one artifact."""
        folder = self.folder
        if not self._version or not folder.is_dir():
            return []
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        return [name for name in names if os.path.exists(os.path.join(folder, name, folder.name))]

    def content(self, hash_file: HashFile, at: Path | None = None) -> str:
        """What tells what would be loaded from anything else.

        Args:
            hash_file: Hashes a file.
            at: Looked at instead of what would be loaded.

        Raises:
            DatasetError: There is no version.
            OSError: It cannot be read.
        """
        return content_of(at or Path(self._get_load_path()), hash_file)

    def _write(self, data: Any, path: Path) -> None:
        raise NotImplementedError

    def _read(self, path: Path) -> Any:
        raise NotImplementedError

    def _exists(self) -> bool:
        return Path(self._get_load_path()).exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "version": self._version}


class AtomicDataset(AtomicVersions):
    """Wraps any file dataset of kedro-datasets and makes its saves atomic.

    ```yaml
    responses:
      type: fisao_pipeline.datasets.AtomicDataset
      dataset: pandas.ParquetDataset        # or {type: …, save_args: {…}, load_args: {…}}
      filepath: data/02_intermediate/responses.parquet
      versioned: true
    ```

    Lists in parquet columns come back as lists; NaN and infinity in JSON are refused, since strict readers reject them.
    """

    def __init__(
        self,
        *,
        filepath: str,
        dataset: str | dict[str, Any],
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Check the wrapped dataset's definition.

        Args:
            filepath: Local path; with `versioned: true` the folder of the versions.
            dataset: The wrapped dataset: its type, or a mapping with `type` and arguments of that type.
            version: Set by Kedro for `versioned: true`.
            metadata: Ignored here, read by Kedro-Viz.

        Raises:
            DatasetError: The definition names a path or versions of its own, or is not valid for its type.
        """
        super().__init__(filepath, version, metadata)
        self._definition = {"type": dataset} if isinstance(dataset, str) else deepcopy(dataset)
        own = {"filepath", "path", "versioned", "version", "metadata"} & self._definition.keys()
        if own:
            raise DatasetError(f"Give {sorted(own)} beside 'dataset', not in it: AtomicDataset needs them itself.")
        wrapped = self._wrapped(Path(self._filepath))
        self._kind = type(wrapped).__name__
        self._preview_kind = _preview_kind(wrapped)

    def _wrapped(self, path: Path) -> AbstractDataset:
        return AbstractDataset.from_config(path.name, {**self._definition, "filepath": path.as_posix()})

    def _write(self, data: Any, path: Path) -> None:
        if path.suffix == ".json" and isinstance(data, dict | list):
            _refuse_non_finite(data, path.name)
        self._wrapped(path).save(data)

    def _read(self, path: Path) -> Any:
        if not path.exists():
            raise DatasetError(f"'{path}' does not exist.")
        data = self._wrapped(path).load()
        return _with_lists(data) if self._kind == "ParquetDataset" else data

    @property
    def drawn_as(self) -> str:
        """What Kedro-Viz calls the picture that this is, `PlotlyPreview` or `ImagePreview`; empty for anything else."""
        return self._preview_kind if self._preview_kind in ("PlotlyPreview", "ImagePreview") else ""

    def glimpse(self) -> list[str]:
        """The beginning of what would be loaded; nothing of a picture.

        Raises:
            DatasetError: There is none, or it cannot be read.
        """
        path = Path(self._get_load_path())
        if self._kind == "ParquetDataset":
            return of_table(path)
        if self.drawn_as:
            return []
        if path.suffix == ".html":
            return [f"A page, to be opened in a browser: {path}"]
        content = self.load()
        return of_lines(content.splitlines()) if isinstance(content, str) else of_json(content)

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "dataset": self._definition}


def _preview_kind(wrapped: AbstractDataset[Any, Any]) -> str:
    preview = getattr(wrapped, "preview", None)
    returns = inspect.signature(preview).return_annotation if preview is not None else ""
    return getattr(returns, "__name__", str(returns))


def _refuse_non_finite(data: Any, where: str) -> None:
    """Name the first NaN or infinity in nested dicts and lists.

    Raises:
        DatasetError: There is one.
    """
    for place, value in _leaves(data, where):
        if isinstance(value, float) and not math.isfinite(value):
            raise DatasetError(f"{place} is {value}, which JSON cannot hold; save null where there is no number.")


def _leaves(data: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _leaves(value, f"{where}: {key}" if ":" not in where else f"{where}.{key}")
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            yield from _leaves(value, f"{where}[{index}]")
    else:
        yield where, data


def _with_lists(table: Any) -> Any:
    """Turn the arrays that pandas makes of parquet lists back into the lists that were saved."""
    import pandas as pd  # noqa: PLC0415 - slow to import, and reading the catalog shall not need it

    for name in table.columns[[pd.api.types.is_object_dtype(dtype) for dtype in table.dtypes]]:
        table[name] = table[name].map(_as_list)
    return table


def _as_list(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return [_as_list(item) for item in value.tolist()]
    return value
