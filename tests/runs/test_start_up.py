"""The garbage collector rests while a run starts and at its end, and is as it was while there is work."""

import gc
import subprocess
import sys

import pytest

from fisao_pipeline.runs.start_up import StartUpHooks, collect_seldom


@pytest.fixture(autouse=True)
def usual():
    """Threshold of a fresh interpreter, whatever this process came to, and back."""
    before = gc.get_threshold()
    fresh = subprocess.run(
        [sys.executable, "-c", "import gc; print(*gc.get_threshold())"], capture_output=True, text=True, check=True
    )
    gc.set_threshold(*map(int, fresh.stdout.split()))
    yield gc.get_threshold()
    gc.set_threshold(*before)


def test_the_collector_waits_until_a_pipeline_is_run(usual):
    collect_seldom()
    assert gc.isenabled() and gc.get_threshold()[0] > 10 * usual[0]
    StartUpHooks().before_pipeline_run()
    assert gc.get_threshold() == usual


@pytest.mark.parametrize("by_command", [True, False], ids=["command", "notebook"])
def test_what_a_command_made_before_its_work_is_not_looked_through_again(by_command):
    told = f"""
import gc
from contextlib import nullcontext
import click
from fisao_pipeline.runs.start_up import StartUpHooks, collect_seldom

class Model:
    pass

collect_seldom()
with click.Context(click.Command("run")) if {by_command} else nullcontext():
    early = Model()
    early.itself = early
    StartUpHooks().before_pipeline_run()
    frozen = gc.get_freeze_count()
    late = Model()
    late.itself = late
    # Another run in the same process, of a study's arm, say.
    StartUpHooks().before_pipeline_run()
    assert gc.get_freeze_count() <= frozen
    del early, late
    print(frozen > 10_000, sum(isinstance(each, Model) for each in gc.get_objects()), gc.collect())
"""
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    frozen, models, found = done.stdout.split()
    assert frozen == str(by_command)
    # What came after start-up is found in both; a notebook's models of before, too.
    assert int(models) == (1 if by_command else 2)
    assert int(found) >= int(models)


@pytest.mark.parametrize("own", [(0, 10, 10), (12345, 5, 5)])
def test_a_threshold_of_somebodys_own_is_left_alone(own):
    gc.set_threshold(*own)
    collect_seldom()
    assert gc.get_threshold() == own
    StartUpHooks().before_pipeline_run()
    assert gc.get_threshold() == own


def test_the_collector_rests_at_the_end():
    told = """
import atexit, gc
from fisao_pipeline.runs.start_up import collect_seldom
atexit.register(lambda: print(gc.get_freeze_count()))  # the last to be called
collect_seldom()
"""
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10_000


def test_the_settings_begin_with_it():
    told = "import fisao_pipeline.settings as s, gc; print(gc.get_threshold()[0], type(s.HOOKS[-1]).__name__)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["200000", "StartUpHooks"]
