"""A child run of the active MLflow run, for one row of a study."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

KEY_TAG = "study.row"


@contextmanager
def child_run(name: str, key: str, tags: Mapping[str, str], parameters: Mapping[str, Any]) -> Iterator[str | None]:
    """Within the block a child of the active MLflow run is the active one, so what nodes log goes to it.

    It ends as FINISHED, as KILLED when the block is interrupted (Ctrl-C or SIGTERM), or else as FAILED. A process that
    is killed outright cannot say so: what it left RUNNING ends as KILLED when the same key is run again. An MLflow
    that fails is a warning: results matter more than logs.

    Args:
        name: The child's name.
        key: What the row is known by, its tag `study.row`.
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
        _attempt(lambda: _end_abandoned(experiment, key))
        tagged = {**tags, KEY_TAG: key}
        child = _attempt(lambda: mlflow.start_run(run_name=name, nested=True, tags=tagged, experiment_id=experiment))
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


def _end_abandoned(experiment_id: str, key: str) -> None:
    import mlflow  # noqa: PLC0415 - slow to import

    client = mlflow.MlflowClient()
    for run in client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}' and attributes.status = 'RUNNING'"):
        client.set_terminated(run.info.run_id, "KILLED")


def _attempt(action: Callable[[], Any]) -> Any | None:
    try:
        return action()
    except Exception as error:
        logger.warning("MLflow did not take the record of this row: %s", error)
        return None
