"""Start-up and end without a search for garbage at every turn.

Libraries make a million objects while they are imported, and nearly all of them stay. Python's collector looks through
them again and again, for a seventh of a run that has nothing else to do ("A run that finds everything fresh" in
docs/benchmarks.md), and several times more while Python shuts down, for two seconds once transformers is there. Work is
done with the collector as it was, models and batches are garbage that must go; but what `kedro run` made before its
first node, which stays for as long as the process, is not looked through any more.
"""

from __future__ import annotations

import atexit
import gc

import click
from kedro.framework.hooks import hook_impl

_SELDOM = 200_000  # new objects between two collections, of Python's usual 700
_USUAL = gc.get_threshold()


def collect_seldom() -> None:
    """Have the collector wait until a pipeline is run, and rest at the end; where it is switched off, it stays off."""
    if gc.get_threshold() == _USUAL:
        gc.set_threshold(_SELDOM, *_USUAL[1:])
    # What is frozen is not looked through. Nothing is left to be done by then: files and folders that must go with the
    # process are dropped by exit handlers of their own.
    atexit.register(gc.freeze)


class StartUpHooks:
    """Ends start-up when a pipeline is about to be run."""

    @hook_impl(trylast=True)
    def before_pipeline_run(self) -> None:
        """Give the collector its own threshold back, and no more of what is there once a command's work begins.

        Called from Python, in a notebook say, there may be models already that somebody will drop: they are looked at.
        """
        if gc.get_threshold()[0] != _SELDOM:
            return
        if click.get_current_context(silent=True) is not None:
            gc.freeze()
        gc.set_threshold(*_USUAL)
