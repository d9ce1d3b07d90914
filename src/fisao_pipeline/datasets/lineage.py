"""How a node's inputs came about, as an input of that node."""

from __future__ import annotations

from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError


class LineageDataset(AbstractDataset[NoReturn, list[dict[str, Any]]]):
    """An input that `LineageHooks` fills: the `provenance.json` of the node's other inputs, of their inputs, and so on.

    ```yaml
    lineage:
      type: fisao_pipeline.datasets.LineageDataset
    ```

    A node cannot know which versions it was given, and a catalog entry cannot either; the hook does. Without the hook
    (worker processes that were spawned) there are no records.
    """

    def __init__(self, *, metadata: dict[str, Any] | None = None) -> None:
        """Nothing to say where it is.

        Args:
            metadata: Ignored here, read by Kedro-Viz.
        """
        self.metadata = metadata

    def load(self) -> list[dict[str, Any]]:
        """No records, which the hook replaces."""
        return []

    def save(self, data: NoReturn) -> None:
        """Refused.

        Raises:
            DatasetError: Always.
        """
        raise DatasetError("Lineage is recorded beside each artifact, not saved by a node.")

    def glimpse(self) -> list[str]:
        """What it is, as there is nothing of it on the disk."""
        return ["The records of all that the report rests on, which each run hands to it."]

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {}
