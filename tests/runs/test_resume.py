"""The command to go on with: which nodes, and that Kedro reads back the settings that were written."""

import math
import shlex

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kedro.framework.cli.project import run as kedro_run
from kedro.pipeline import Node, Pipeline
from kedro.runner import ThreadRunner

from fisao_pipeline.runs.resume import inexpressible, resume_command, stage_command, unfinished_nodes


def identity(value):
    return value


CHAIN = Pipeline(
    [
        Node(identity, "a", "b", name="first"),
        Node(identity, "b", "c", name="second"),
        Node(identity, "c", "d", name="third"),
        Node(identity, "a", "e", name="aside"),
    ]
)


def nodes(*names):
    return [node for node in CHAIN.nodes if node.name in names]


def understood(command: str) -> dict:
    """What Kedro's own command line makes of a command."""
    program, subcommand, *arguments = shlex.split(command)
    assert (program, subcommand) == ("kedro", "run")
    return kedro_run.make_context("run", arguments).params


def test_what_is_left_are_the_unfinished_nodes():
    left = unfinished_nodes(CHAIN, set(nodes("first")), lambda name: True)
    assert sorted(node.name for node in left) == ["aside", "second", "third"]
    assert understood(resume_command({}, CHAIN, left))["from_nodes"] == [
        node.name for node in CHAIN.nodes if node.name in {"aside", "second"}
    ]


def test_the_maker_of_what_was_not_kept_is_left_too():
    done = set(nodes("first", "second", "aside"))
    assert unfinished_nodes(CHAIN, done, lambda name: name != "c") == nodes("second", "third")
    assert unfinished_nodes(CHAIN, done, lambda name: name not in {"b", "c"}) == nodes("first", "second", "third")


def test_a_run_of_chosen_nodes_goes_on_with_those_alone():
    command = resume_command({"node_names": ("first", "second")}, CHAIN, nodes("first", "second"))
    assert command == "kedro run --nodes=first,second"


def test_the_command_repeats_the_settings_of_the_run():
    params = {
        "env": "smoke",
        "pipeline_names": ["train"],
        "load_versions": {"prompts": "2025-01-01T00.00.00.000Z"},
        "runtime_params": {"policy_training": {"ppo": {"clip_range": 0.1}}, "note": "two words"},
        "to_nodes": ["third"],
        "tags": (),
        "runner": str(ThreadRunner()),
    }
    options = {"is_async": True, "runner_params": {"max_workers": 2}, "runner": "ThreadRunner"}
    assert resume_command(params, CHAIN, nodes("second"), options) == (
        "kedro run --env=smoke --pipelines=train --from-nodes=second --to-nodes=third "
        "--runner=ThreadRunner --async --runner-params=max_workers=2 "
        "--load-versions=prompts:2025-01-01T00.00.00.000Z "
        "'--params=policy_training.ppo.clip_range=0.1,note=two words'"
    )


def test_other_pipelines_with_the_settings_of_the_run():
    params = {"env": "smoke", "pipeline_names": ["train"], "runtime_params": {"a": {"b": None}}}
    assert stage_command(params, ["x", "y"]) == "kedro run --env=smoke --pipelines=x,y --params=a.b=null"


NUMBERS = (0, -3, 1e-5, 0.1, math.inf, -math.inf)
TEXTS = ("true", "null", "1", "1e-5", "", " padded ", "x=y", "é", "a\nb", "it's", "${a}", "#", "a: b")


@pytest.mark.parametrize("value", [None, True, False, *NUMBERS, *TEXTS, [], {}, [1], ["a b"]])
def test_kedro_reads_back_what_was_written(value):
    given_params = {"block": {"inner": {"name": value}, "other": 1}}
    read = understood(resume_command({"runtime_params": given_params}, CHAIN, nodes("first")))["params"]
    assert repr(read) == repr(given_params)
    assert inexpressible(given_params) == []


@pytest.mark.parametrize("value", ["a, b", [1, 2], [{"name": "x", "set": {}}], {"a.b": 1}])
def test_what_kedro_would_not_read_back_is_left_out_and_named(value):
    given_params = {"block": {"name": value, "other": True}}
    read = understood(resume_command({"runtime_params": given_params}, CHAIN, nodes("first")))["params"]
    assert read == {"block": {"other": True}}
    assert [name.startswith("block.name") for name in inexpressible(given_params)] == [True]


KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=12))


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, min_size=1, max_size=3), min_size=1, max_size=3))
def test_whatever_was_given_is_read_back_or_named(params):
    command = resume_command({"runtime_params": params}, CHAIN, nodes("first"))
    assert len(command.splitlines()) == 1
    unsaid = set(inexpressible(params))
    kept = {
        block: {name: value for name, value in values.items() if f"{block}.{name}" not in unsaid}
        for block, values in params.items()
    }
    read = understood(command)["params"] or {}
    assert read == {block: values for block, values in kept.items() if values}
    for name in unsaid:
        block, _, key = name.partition(".")
        assert isinstance(params[block][key], str)


def test_the_parser_is_kedros_own():
    with pytest.raises(click.UsageError):
        understood("kedro run --params=novalue")
