"""How a node's inputs came about, as an input of that node."""

from __future__ import annotations

from typing import Any, NoReturn, TypedDict

from kedro.io import AbstractDataset, DatasetError


class GivenLineage(TypedDict):
    """What a node is told of its inputs.

    Attributes:
        records: The `provenance.json` of the node's other inputs, of their inputs, and so on, each once.
        tree: The lines that `lineage` will print below the node's output; what the tree names is untrusted.
    """

    records: list[dict[str, Any]]
    tree: list[str]


class LineageDataset(AbstractDataset[NoReturn, GivenLineage]):
    """An input that `LineageHooks` fills: how the node's other inputs came about.

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

    def load(self) -> GivenLineage:
        """Nothing, which the hook replaces."""
        return {"records": [], "tree": []}

    def save(self, data: NoReturn) -> None:
        """Refused.

        Raises:
            DatasetError: Always.
        """
        raise DatasetError("Lineage is recorded beside each artifact, not saved by a node.")

    def glimpse(self) -> list[str]:
        """What it is, as there is nothing of it on the disk."""
        return ["How all that the report rests on came about, which each run hands to it."]

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {}
