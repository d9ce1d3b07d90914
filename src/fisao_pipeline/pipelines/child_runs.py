"""A child run of the active MLflow run, for one row of a study."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)


@contextmanager
def child_run(name: str, tags: Mapping[str, str], parameters: Mapping[str, Any]) -> Iterator[str | None]:
    """Within the block a child of the active MLflow run is the active one, so what nodes log goes to it.

    It ends as FINISHED, as KILLED when the block is interrupted (Ctrl-C or SIGTERM), or else as FAILED. An MLflow that
    fails is a warning: results matter more than logs.

    Args:
        name: The child's name.
        tags: Its tags; MLflow adds the parent's id.
        parameters: Its parameters; null ones are left out.

    Yields:
        The child's id; None without an active run.
    """
    import mlflow  # noqa: PLC0415 - slow to import

    parent = mlflow.active_run()
    child = None
    if parent is not None:
        experiment = parent.info.experiment_id
        child = _attempt(
            lambda: mlflow.start_run(run_name=name, nested=True, tags=dict(tags), experiment_id=experiment)
        )
    if child is None:
        yield None
        return
    status = "FAILED"
    try:
        logged = {key: value for key, value in parameters.items() if value is not None}
        _attempt(lambda: mlflow.log_params(logged))
        yield child.info.run_id
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        _attempt(lambda: mlflow.end_run(status))


def _attempt(action: Callable[[], Any]) -> Any | None:
    try:
        return action()
    except Exception as error:
        logger.warning("MLflow did not take the record of this row: %s", error)
        return None
