"""A `TensorFile` as a dataset, for values of a `KeyedFolderDataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from fisao_pipeline.models.tensor_file import TensorFile


class TensorFileDataset(AbstractDataset[TensorFile, TensorFile]):
    """Saves and loads a `models.tensor_file.TensorFile`; nothing is pickled.

    ```yaml
    training_checkpoints:
      type: fisao_pipeline.datasets.KeyedFolderDataset
      dataset: fisao_pipeline.datasets.TensorFileDataset
      suffix: .safetensors
      filepath: data/06_models/training_checkpoints
    ```

    By itself it is not atomic; `KeyedFolderDataset` and `AtomicDataset` make it so.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Point at the file.

        Args:
            filepath: Local path.
            metadata: Ignored here, read by Kedro-Viz.
        """
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> TensorFile:
        """Read the file."""
        return TensorFile.read(self._filepath)

    def save(self, data: TensorFile) -> None:
        """Write the file."""
        data.write(self._filepath)

    def _exists(self) -> bool:
        return self._filepath.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath.as_posix()}
