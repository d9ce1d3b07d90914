"""A folder of values by key that a node fills one at a time: what is finished is kept, whatever happens next."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from fisao_pipeline.datasets.atomic import AtomicDataset
from fisao_pipeline.datasets.locks import NoLocksError, lock_file
from fisao_pipeline.datasets.preview import of_names

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class KeyedFolder:
    """Values by key, each a file of its own that appears in one step."""

    def __init__(self, folder: Path, suffix: str, definition: str | dict[str, Any]) -> None:
        self.folder, self._suffix, self._definition = folder, suffix, definition

    def get(self, key: str) -> Any | None:
        """The value that was put under a key, None when there is none.

        Raises:
            DatasetError: The file cannot be read (each is written in one step, so somebody has changed it), or the key
                is no file name.
        """
        dataset = self._dataset(key)
        return dataset.load() if dataset.exists() else None

    def put(self, key: str, value: Any) -> None:
        """Keep a value; one under the same key is replaced.

        Raises:
            DatasetError: Writing failed (what was there before is untouched), or the key is no file name.
        """
        self._dataset(key).save(value)

    def remove(self, key: str) -> None:
        """Remove the value under a key; nothing happens when there is none.

        Raises:
            DatasetError: The key is no file name.
        """
        _check(key)
        (self.folder / f"{key}{self._suffix}").unlink(missing_ok=True)

    @contextmanager
    def claim(self, key: str, wait: bool = False) -> Iterator[bool]:
        """Tell other processes that share the folder that this one is at work on a key's value, as long as it is.

        The claim ends with the block or with the process, however that ends.

        Args:
            key: The key; there need be no value yet.
            wait: Wait for another process's claim to end.

        Yields:
            Whether the claim is ours; never False with `wait`.

        Raises:
            DatasetError: The key is no file name.
        """
        _check(key)
        path = self.folder / f".claim-{key}"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            claimed = lock_file(path, wait=wait)
        except NoLocksError:  # processes that share a folder may do some work twice, to the same end
            yield True
            return
        if claimed is None:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)  # before the lock is let go: nobody else's file can be there
            os.close(claimed)

    def keys(self) -> list[str]:
        """Keys of all values, sorted."""
        return sorted(path.name.removesuffix(self._suffix) for path in self.folder.glob(f"[!.]*{self._suffix}"))

    def states(self) -> dict[str, os.stat_result]:
        """Size and times of each value's file by key; a value that goes meanwhile is left out."""
        found = {}
        for key in self.keys():
            with suppress(FileNotFoundError):
                found[key] = (self.folder / f"{key}{self._suffix}").stat()
        return found

    def _dataset(self, key: str) -> AtomicDataset:
        _check(key)
        return AtomicDataset(filepath=(self.folder / f"{key}{self._suffix}").as_posix(), dataset=self._definition)


def _check(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise DatasetError(f"Key '{key}' is no file name: letters, digits, '.', '_' and '-' only.")


class KeyedFolderDataset(AbstractDataset[NoReturn, KeyedFolder]):
    """Loads a `KeyedFolder`, through which a node reads and writes values while it works.

    ```yaml
    study_rows:
      type: fisao_pipeline.datasets.KeyedFolderDataset
      dataset: json.JSONDataset             # of each value; or {type: …, save_args: {…}, load_args: {…}}
      suffix: .json
      filepath: data/07_model_output/study_rows
    ```

    kedro-datasets' PartitionedDataset saves when a node has ended, or, for a node that is a generator, can be written
    but not read by it. A study needs both: it skips what it finds and keeps each row at once.
    """

    def __init__(
        self,
        *,
        filepath: str,
        dataset: str | dict[str, Any],
        suffix: str,
        of_unfinished_runs: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Point at the folder.

        Args:
            filepath: Local folder; it need not exist.
            dataset: How a value is written: a file dataset's type, or a mapping with `type` and its arguments.
            suffix: Ending of the files, `.json` for instance.
            of_unfinished_runs: Whether a value has no use but to go on with the run that left it, which removes it
                once it is finished. `prune` offers what a run that was given up has left.
            metadata: Ignored here, read by Kedro-Viz.

        Raises:
            DatasetError: The path is not local, the suffix has no dot, or the definition is not valid for its type.
        """
        if not suffix.startswith("."):
            raise DatasetError(f"suffix '{suffix}' must start with a dot.")
        self.of_unfinished_runs = of_unfinished_runs
        self._values = KeyedFolder(Path(filepath), suffix, dataset)
        AtomicDataset(
            filepath=f"{filepath}/x{suffix}", dataset=dataset
        )  # refuses a wrong definition now, not after hours
        self.metadata = metadata

    def load(self) -> KeyedFolder:
        """The folder's values; reading and writing goes through them."""
        return self._values

    def save(self, data: NoReturn) -> None:
        """Refused.

        Raises:
            DatasetError: Always.
        """
        raise DatasetError("Values are kept one by one with `put` on what this dataset loads; make it a node's input.")

    def glimpse(self) -> list[str]:
        """The keys."""
        return of_names("values by key", self._values.keys())

    def _exists(self) -> bool:
        return self._values.folder.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._values.folder.as_posix(), "keys": len(self._values.keys())}
