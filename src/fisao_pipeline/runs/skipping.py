"""A runner that asks, node by node, whether what a node makes is there already, and runs the others."""

from __future__ import annotations

import logging
from collections import Counter
from functools import cache

from kedro.framework.hooks.markers import HOOK_NAMESPACE
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.runner import SequentialRunner, Task
from pluggy import HookspecMarker, PluginManager

from fisao_pipeline.artifacts.evidence import is_kept

_hook_spec = HookspecMarker(HOOK_NAMESPACE)


class SkipSpecs:
    """The hooks that Kedro lacks: one may leave a node out, the other is told."""

    @_hook_spec(firstresult=True)
    def skip_node(self, node: Node) -> bool | None:
        """Called, perhaps more than once, before a node would be run.

        Args:
            node: It has outputs that are kept.

        Returns:
            True if these are as the node would make them.
        """

    @_hook_spec
    def after_node_skipped(self, node: Node) -> None:
        """Called when a node was left out.

        Args:
            node: It has outputs that are kept.
        """


class SkippingRunner(SequentialRunner):
    """Runs one node after the other, like Kedro's `SequentialRunner`, and leaves out what `skip_node` tells it to.

    Whether a node is left out is decided when it is its turn: where a node before it was run and made the same as
    before, it still may be. What hands on things in memory is run for those that take them; a node without outputs
    always.
    """

    @property
    def _logger(self) -> logging.Logger:
        return logging.getLogger(SequentialRunner.__module__)  # with Kedro's own lines

    def __repr__(self) -> str:
        # Kedro hands its hooks this text, and Kedro-Viz looks in it for what this one is too.
        return f"<{SequentialRunner.__module__}.{SequentialRunner.__name__} object at {id(self):#x}>"

    def _run(
        self,
        pipeline: Pipeline,
        catalog: DataCatalog,
        hook_manager: PluginManager | None = None,
        run_id: str | None = None,
    ) -> None:
        in_memory = {name for node in pipeline.nodes for name in node.outputs if not is_kept(name, catalog)}
        makers = {name: node for node in pipeline.nodes for name in in_memory.intersection(node.outputs)}
        takers = {name: [node for node in pipeline.nodes if name in node.inputs] for name in in_memory}
        loads = Counter(name for node in pipeline.nodes for name in node.inputs)
        hooks, done = getattr(hook_manager, "hook", None), set()

        @cache
        def may_skip(node: Node, _ran: int) -> bool:
            return bool(hooks and hooks.skip_node(node=node))

        def must_run(node: Node) -> bool:
            kept = [name for name in node.outputs if name not in in_memory]
            # What another node has made since may change the answer, and nothing else.
            if not node.outputs or (kept and not may_skip(node, len(done))):
                return True
            handed_on = in_memory.intersection(node.outputs)
            return any(not takers[name] or any(map(must_run, takers[name])) for name in handed_on)

        def run(node: Node) -> None:
            for name in in_memory.intersection(node.inputs):
                # A node became stale only after the turn of the one that hands it something.
                if makers[name] not in done:
                    run(makers[name])
            Task(node, catalog, self._is_async, hook_manager, run_id).execute()
            done.add(node)
            self._logger.info("Completed node: %s", node.name)
            self._release_datasets(node, catalog, loads, pipeline)

        for node in pipeline.nodes:
            if node in done:
                continue
            if must_run(node):
                run(node)
            elif not in_memory.issuperset(node.outputs):
                hooks.after_node_skipped(node=node)
                self._release_datasets(node, catalog, loads, pipeline)
