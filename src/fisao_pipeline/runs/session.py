"""A Kedro session that skips and can be stopped: Ctrl-C and SIGTERM leave a run that says KILLED and how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click
from kedro.framework.hooks.markers import HOOK_NAMESPACE
from kedro.framework.session import KedroSession
from kedro.runner import AbstractRunner, SequentialRunner
from pluggy import HookspecMarker

from fisao_pipeline.runs.skipping import SkippingRunner, SkipSpecs

_hook_spec = HookspecMarker(HOOK_NAMESPACE)


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where Ctrl-C would be, so that the same code cleans up after both."""


class InterruptSpecs:
    """The hook that Kedro lacks: its `on_pipeline_error` is not called for an interrupt."""

    @_hook_spec
    def on_pipeline_interrupt(self, interrupt: KeyboardInterrupt) -> None:
        """Called when a run is stopped by Ctrl-C or SIGTERM, before the process ends.

        Args:
            interrupt: `Terminated` for SIGTERM, a plain KeyboardInterrupt for Ctrl-C.
        """

    @_hook_spec
    def after_session_run(self) -> None:
        """Called when a run has ended, however it ended: where another hook refused it, nothing else is called."""


class InterruptibleSession(KedroSession):
    """Runs like Kedro's session, with two differences.

    An interrupted run calls `on_pipeline_interrupt` and exits with 130 or 143. And where one node is run after the
    other, as they are unless another runner is asked for, it is `SkippingRunner` that runs them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for specs in (InterruptSpecs, SkipSpecs):
            self._hook_manager.add_hookspecs(specs)

    def run(self, *args: Any, runner: AbstractRunner | None = None, **kwargs: Any) -> dict[str, Any]:
        """Run a pipeline; takes what `KedroSession.run` takes, but for `runner` by name alone.

        Raises:
            KeyboardInterrupt: The run was stopped and called from Python (a notebook, say). On the command line the
                process exits instead, with 130 after Ctrl-C and 143 after SIGTERM.
        """
        with _sigterm_as_interrupt():
            try:
                return super().run(*args, runner=_skipping(runner), **kwargs)
            except KeyboardInterrupt as interrupt:
                self._hook_manager.hook.on_pipeline_interrupt(interrupt=interrupt)
                command = click.get_current_context(silent=True)
                if command is None:
                    raise
                command.exit(143 if isinstance(interrupt, Terminated) else 130)
                raise
            finally:
                self._hook_manager.hook.after_session_run()


def _skipping(runner: AbstractRunner | None) -> AbstractRunner:
    """The runner that was asked for; for Kedro's default the one that skips, loading as the other would."""
    if runner is not None and type(runner) is not SequentialRunner:
        return runner
    return SkippingRunner(is_async=runner._is_async if runner is not None else False)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` within the block; signals can only be handled in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _raise_terminated(_number: int, _frame: FrameType | None) -> None:
    raise Terminated("SIGTERM")
