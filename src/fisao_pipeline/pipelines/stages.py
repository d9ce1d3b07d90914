"""A stage as one box: Kedro-Viz folds a namespace, and `kedro run --namespaces` runs one."""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node


class StageNode(Node):
    """A node of a namespace that keeps its plain name.

    Kedro puts the namespace before the name, and names are in commands, fingerprints and records, which would change.
    """

    @property
    def name(self) -> str:
        """The name that the stage's package gave it."""
        return str(self._name)

    def _copy(self, **overwrite_params: Any) -> Node:
        # Kedro's makes a plain Node, of another name, whenever a pipeline is tagged.
        return _of_stage(super()._copy(**overwrite_params))


def as_stage(name: str, pipeline: Pipeline) -> Pipeline:
    """A stage's pipeline with its nodes in the namespace that is named like the stage."""
    return Pipeline([_of_stage(node._copy(namespace=name)) for node in pipeline.nodes])


def _of_stage(node: Node) -> Node:
    node.__class__ = StageNode
    return node
