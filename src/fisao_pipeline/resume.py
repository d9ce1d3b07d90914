"""How to go on after a run that failed or was stopped: the command that runs what is left."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from fisao_pipeline.provenance import flatten_parameters


def nodes_to_resume_from(pipeline: Pipeline, done: set[Node], is_kept: Callable[[str], bool]) -> list[str]:
    """The nodes to give to `--from-nodes` so that everything unfinished runs.

    Args:
        pipeline: What the run was to do.
        done: The nodes whose outputs are all saved.
        is_kept: Whether a dataset outlives the process; a node that needs one that does not takes its maker with it.

    Returns:
        Node names in the pipeline's order, only those that no other one of them leads to.
    """
    makers = {name: node for node in pipeline.nodes for name in node.outputs}
    todo = set(pipeline.nodes) - done
    waiting = list(todo)
    while waiting:
        for name in waiting.pop().inputs:
            maker = makers.get(name)
            if maker is not None and maker not in todo and not is_kept(name):
                todo.add(maker)
                waiting.append(maker)
    parents = pipeline.node_dependencies
    return [node.name for node in pipeline.nodes if node in todo and not todo & parents[node]]


def resume_command(run_params: Mapping[str, Any], from_nodes: list[str]) -> str:
    """The `kedro run` command that starts at the given nodes with the settings of an earlier run.

    Args:
        run_params: What Kedro hands to its pipeline hooks.
        from_nodes: Node names.
    """
    words = ["kedro", "run"]
    if run_params.get("env"):
        words.append(f"--env={run_params['env']}")
    if run_params.get("pipeline_names"):
        words.append(f"--pipelines={','.join(run_params['pipeline_names'])}")
    words.append(f"--from-nodes={','.join(from_nodes)}")
    for option in ("to_nodes", "to_outputs", "tags", "namespaces"):
        if run_params.get(option):
            words.append(f"--{option.replace('_', '-')}={','.join(run_params[option])}")
    if run_params.get("load_versions"):
        versions = ",".join(f"{name}:{version}" for name, version in run_params["load_versions"].items())
        words.append(f"--load-versions={versions}")
    if run_params.get("runtime_params"):
        flat = flatten_parameters({"parameters": run_params["runtime_params"]})
        words.append(f"--params={','.join(f'{key}={value}' for key, value in flat.items())}")
    return shlex.join(words)
