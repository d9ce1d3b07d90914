"""Commands to go on with: what is left of a run that failed or was stopped, or the stages that a run needs first."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError


def unfinished_nodes(pipeline: Pipeline, done: set[Node], is_kept: Callable[[str], bool]) -> list[Node]:
    """The nodes that have to run so that everything is finished, in the pipeline's order.

    Args:
        pipeline: What the run was to do.
        done: The nodes whose outputs are all saved.
        is_kept: Whether a dataset outlives the process; a node that needs one that does not takes its maker with it.
    """
    makers = {name: node for node in pipeline.nodes for name in node.outputs}
    todo = {node for node in set(pipeline.nodes) - done if not _hands_on(node, pipeline, is_kept)}
    waiting = list(todo)
    while waiting:
        for name in waiting.pop().inputs:
            maker = makers.get(name)
            if maker is not None and maker not in todo and not is_kept(name):
                todo.add(maker)
                waiting.append(maker)
    return [node for node in pipeline.nodes if node in todo]


def _hands_on(node: Node, pipeline: Pipeline, is_kept: Callable[[str], bool]) -> bool:
    """Whether all that a node makes goes through memory to other nodes, which say whether it is needed."""
    return bool(node.outputs) and not any(is_kept(name) or name in pipeline.outputs() for name in node.outputs)


def resume_command(
    run_params: Mapping[str, Any], pipeline: Pipeline, todo: Sequence[Node], options: Mapping[str, Any] | None = None
) -> str:
    """The `kedro run` command that runs what is left with the settings of an earlier run.

    Args:
        run_params: What Kedro hands to its pipeline hooks.
        pipeline: What that run was to do.
        todo: What is left of it. A run of chosen nodes (`--nodes`) goes on with these alone, any other one from the
            first of them.
        options: What was given to `kedro run`, where the hooks are not told: `is_async`, `runner_params` and
            `conf_source`.
    """
    options = options or {}
    words = _beginning(run_params, run_params.get("pipeline_names"), options)
    if run_params.get("node_names"):
        words.append(f"--nodes={','.join(node.name for node in todo)}")
    else:
        parents, left = pipeline.node_dependencies, set(todo)
        first = [node.name for node in todo if not left & parents[node]]
        words.append(f"--from-nodes={','.join(first)}")
    for option in ("to_nodes", "to_outputs", "tags", "namespaces"):
        if run_params.get(option):
            words.append(f"--{option.replace('_', '-')}={','.join(run_params[option])}")
    if run_params.get("only_missing_outputs"):
        words.append("--only-missing-outputs")
    words += _runner(str(run_params.get("runner")), options)
    if run_params.get("load_versions"):
        versions = ",".join(f"{name}:{version}" for name, version in run_params["load_versions"].items())
        words.append(f"--load-versions={versions}")
    return shlex.join(words + _params_option("params", run_params.get("runtime_params")))


def stage_command(run_params: Mapping[str, Any], pipelines: Sequence[str]) -> str:
    """The `kedro run` command of other pipelines with the environment and the parameters of a run."""
    words = _beginning(run_params, pipelines, {})
    return shlex.join(words + _params_option("params", run_params.get("runtime_params")))


def inexpressible(runtime_params: Mapping[str, Any] | None) -> list[str]:
    """Dotted names of the parameters that no `--params` gives: lists, mostly, since it takes a comma for its own."""
    return [".".join(map(str, path)) for path, value in _leaves(runtime_params or {}) if _spelt(path, value) is None]


def _beginning(run_params: Mapping[str, Any], pipelines: Sequence[str] | None, options: Mapping[str, Any]) -> list[str]:
    words = ["kedro", "run"]
    if options.get("conf_source"):
        words.append(f"--conf-source={options['conf_source']}")
    if run_params.get("env"):
        words.append(f"--env={run_params['env']}")
    if pipelines:
        words.append(f"--pipelines={','.join(pipelines)}")
    return words


def _runner(described: str, options: Mapping[str, Any]) -> list[str]:
    """Kedro hands a runner to its hooks as `<kedro.runner.thread_runner.ThreadRunner object at 0x…>`."""
    found = re.match(r"<([\w.]+) object at ", described)
    path = found.group(1) if found else "SequentialRunner"
    name = path.rpartition(".")[2] if path.startswith("kedro.runner.") else path
    words = [] if name == "SequentialRunner" else [f"--runner={name}"]
    if options.get("is_async"):
        words.append("--async")
    return words + _params_option("runner-params", options.get("runner_params"))


def _params_option(option: str, values: Mapping[str, Any] | None) -> list[str]:
    items = [_spelt(path, value) for path, value in _leaves(values or {})]
    written = [item for item in items if item is not None]
    return [f"--{option}={','.join(written)}"] if written else []


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, Mapping) and (value or not path):
        for name, item in value.items():
            yield from _leaves(item, (*path, name))
    else:
        yield path, value


def _spelt(path: tuple[Any, ...], value: Any) -> str | None:
    """`key=value` as `--params` reads it back, None where it cannot: it splits at commas, then reads YAML."""
    wanted: Any = value
    for name in reversed(path):
        wanted = {name: wanted}
    for text in _candidates(value):
        item = f"{'.'.join(map(str, path))}={text}"
        if "," not in item and item.isprintable() and repr(_read(item.strip())) == repr(wanted):
            return item
    return None


def _candidates(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, float):
        yield repr(value) if value - value == 0 else f".{value}".replace(".-", "-.")
    try:
        yield json.dumps(value, ensure_ascii=False)
        yield json.dumps(value)
    except (TypeError, ValueError):
        return


def _read(item: str) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([item]))
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError, AttributeError):
        return None
