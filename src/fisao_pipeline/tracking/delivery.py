"""Runs of the project's own MLflow store, copied to a tracking server: one that is down or slow costs a run nothing.

MLflow's asynchronous logging buffers in memory and drops what a server does not take. Here its SQLite store in the data
folder is the buffer: a run is recorded there, whoever logs to it and however, and a thread beside the run copies it.
Copying is repeatable: the server's run carries the local id in a tag, and points that are there are not sent again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisao_pipeline.datasets.locks import NoLocksError, lock_file
from fisao_pipeline.params.flat import masked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

logger = logging.getLogger(__name__)

LOCK_FILE = Path(".state", "delivery.lock")
COMMAND = "python -m fisao_pipeline deliver"

# Tags of a run here: the server that it is meant for, whether something is left to send, and its id there.
SERVER_TAG, WAITING_TAG, THERE_TAG = "delivery.server", "delivery.waiting", "delivery.run_id"
# Tag of a run there: its id here, which is the one that records of artifacts name.
HERE_TAG = "local_run_id"

EVERY_SECONDS = 10.0
SHARE_OF_TIME = 0.01  # of one core, at most: a long history takes seconds to read, and a run has few cores to spare
# How long the end of a run waits: for a server that takes what is left, and for one that did not answer before.
END_SECONDS, END_SECONDS_SILENT = 30.0, 3.0
# MLflow's own are seven retries of two minutes. Here the next round is the retry.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


@contextmanager
def short_patience() -> Iterator[None]:
    """Within the block a request is tried once, for ten seconds, unless the environment says otherwise."""
    ours = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@dataclass(frozen=True)
class Server:
    """Where runs are copied to.

    Attributes:
        uri: Of the server, perhaps with a password in it.
        experiment_options: `artifact_location` and `tags` of experiments that are made there, all optional.
    """

    uri: str
    experiment_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its URI without secrets, for logs and tags."""
        return str(masked(self.uri))


class _RunCopy:
    """One run here, the same one there, and what of it is there already."""

    def __init__(self, here: MlflowClient, there: MlflowClient, server: Server, run_id: str, parent: str | None = None):
        self._here, self._there, self._server = here, there, server
        self._run_id, self._parent = run_id, parent
        self._there_id: str | None = None
        self._tags: dict[str, str] = {}
        self._params: set[str] = set()
        self._points: dict[str, set[tuple[int, int, str]]] = defaultdict(set)
        self._children: dict[str, _RunCopy] = {}
        self._complete = False

    def send(self) -> bool:
        """Copy what is new, of its child runs too.

        Returns:
            Whether all of a run that has ended is there.

        Raises:
            Exception: Whatever MLflow raises when the server does not take something; `send` may be called again.
        """
        if self._complete:
            return True
        run = self._here.get_run(self._run_id)
        there_id = self._there_id = self._there_id or self._open(run)
        self._send_tags(run, there_id)
        self._send_params(run, there_id)
        self._send_points(run, there_id)
        children = [child.send() for child in self._find_children(run, there_id)]
        ended = run.info.end_time is not None
        if ended:
            self._send_files(run, there_id)
            self._there.set_terminated(there_id, run.info.status, run.info.end_time)
        self._complete = ended and all(children)
        return self._complete

    def _open(self, run: Run) -> str:
        """Find the run there, or make it."""
        there_id: str | None = run.data.tags.get(THERE_TAG)
        if there_id is None:
            experiment = self._experiment(self._here.get_experiment(run.info.experiment_id).name)
            # It may have been made by a process that ended before it could note the id.
            found = self._there.search_runs([experiment], f"tags.`{HERE_TAG}` = '{self._run_id}'")
            if found:
                there_id = found[0].info.run_id
            else:
                made = self._there.create_run(
                    experiment, run.info.start_time, {HERE_TAG: self._run_id}, run.info.run_name
                )
                self._here.set_tag(self._run_id, THERE_TAG, made.info.run_id)
                return made.info.run_id
            self._here.set_tag(self._run_id, THERE_TAG, there_id)
        for key in self._there.get_run(there_id).data.metrics:
            self._points[key].update(map(_identity, self._there.get_metric_history(there_id, key)))
        return there_id

    def _experiment(self, name: str) -> str:
        found = self._there.get_experiment_by_name(name)
        if found is None:
            return str(self._there.create_experiment(name, **self._server.experiment_options))
        if found.lifecycle_stage == "deleted":
            self._there.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _send_tags(self, run: Run, there_id: str) -> None:
        from mlflow.entities import RunTag  # noqa: PLC0415 - slow to import
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID  # noqa: PLC0415
        from mlflow.utils.validation import MAX_PARAMS_TAGS_PER_BATCH  # noqa: PLC0415

        tags = {key: value for key, value in run.data.tags.items() if key not in (SERVER_TAG, WAITING_TAG, THERE_TAG)}
        tags[HERE_TAG] = self._run_id
        if self._parent is not None:
            tags[MLFLOW_PARENT_RUN_ID] = self._parent
        new = {key: value for key, value in tags.items() if self._tags.get(key) != value}
        for batch in _batches(new.items(), MAX_PARAMS_TAGS_PER_BATCH):
            self._there.log_batch(there_id, tags=[RunTag(key, value) for key, value in batch])
        self._tags |= new

    def _send_params(self, run: Run, there_id: str) -> None:
        from mlflow.entities import Param  # noqa: PLC0415 - slow to import
        from mlflow.utils.validation import MAX_PARAMS_TAGS_PER_BATCH  # noqa: PLC0415

        new = {key: value for key, value in run.data.params.items() if key not in self._params}
        for batch in _batches(new.items(), MAX_PARAMS_TAGS_PER_BATCH):
            self._there.log_batch(there_id, params=[Param(key, value) for key, value in batch])
            self._params.update(key for key, _value in batch)

    def _send_points(self, run: Run, there_id: str) -> None:
        from mlflow.utils.validation import MAX_METRICS_PER_BATCH  # noqa: PLC0415 - slow to import

        new = [
            point
            for key in run.data.metrics
            for point in self._here.get_metric_history(self._run_id, key)
            if _identity(point) not in self._points[key]
        ]
        for batch in _batches(new, MAX_METRICS_PER_BATCH):
            self._there.log_batch(there_id, metrics=batch)
            for point in batch:
                self._points[point.key].add(_identity(point))

    def _send_files(self, run: Run, there_id: str) -> None:
        from mlflow.artifacts import download_artifacts  # noqa: PLC0415 - slow to import

        if self._here.list_artifacts(self._run_id):
            # They lie on this disk, so this copies nothing and says where.
            self._there.log_artifacts(there_id, download_artifacts(artifact_uri=run.info.artifact_uri))

    def _find_children(self, run: Run, there_id: str) -> Iterable[_RunCopy]:
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID  # noqa: PLC0415 - slow to import

        children = _search(self._here, [run.info.experiment_id], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self._run_id}'")
        for child in children:
            copy = _RunCopy(self._here, self._there, self._server, child.info.run_id, there_id)
            self._children.setdefault(child.info.run_id, copy)
        return self._children.values()


class Delivery:
    """Copies runs to a server, those of earlier sessions that wait too, and says once when it does not answer."""

    def __init__(self, store: str, server: Server, data: Path) -> None:
        """Name the store here and the server; neither is asked yet.

        Args:
            store: URI of the store that runs are recorded in.
            server: Where they are copied to.
            data: The data folder, where processes that copy wait for each other.
        """
        self._store, self._server, self._data = store, server, data
        self._current: str | None = None
        self._copies: dict[str, _RunCopy] = {}
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._warned = self._silent = False

    def start(self, run_id: str, beside: bool) -> None:
        """Note that a run is to be delivered, and begin.

        Args:
            run_id: Of the run here.
            beside: Whether to copy while the run goes on; not where processes are forked, which would inherit locks.
        """
        from mlflow import MlflowClient  # noqa: PLC0415 - slow to import

        client = MlflowClient(self._store)
        client.set_tag(run_id, SERVER_TAG, self._server.name)
        client.set_tag(run_id, WAITING_TAG, "true")
        self._current = run_id
        self._ending, self._thread = threading.Event(), None
        if beside:
            self._begin()

    def stop(self) -> None:
        """Copy what is left once the run has ended, or leave it to the next run when that takes long."""
        run_id, self._current = self._current, None
        if run_id is None:
            return
        self._ending.set()
        thread = self._thread or self._begin()
        thread.join(END_SECONDS_SILENT if self._silent else END_SECONDS)
        if self._silent or thread.is_alive():
            logger.log(
                logging.INFO if self._warned else logging.WARNING,
                "MLflow run %s has not wholly reached %s: the next run sends the rest, or `%s`.",
                run_id,
                self._server.name,
                COMMAND,
            )

    def deliver(self) -> tuple[list[str], Exception | None]:
        """Copy all that waits for this server, now.

        Returns:
            Ids here of the runs that are wholly there, and the last error.
        """
        from mlflow import MlflowClient  # noqa: PLC0415 - slow to import
        from mlflow.exceptions import RestException  # noqa: PLC0415

        done: list[str] = []
        failure: Exception | None = None
        with short_patience(), _one_at_a_time(self._data / LOCK_FILE):
            try:
                here, there = MlflowClient(self._store), MlflowClient(self._server.uri)
                waiting = self._waiting(here)
            except Exception as error:  # a scheme that MLflow does not know, for instance
                return done, error
            for run_id in waiting:
                copy = self._copies.setdefault(run_id, _RunCopy(here, there, self._server, run_id))
                try:
                    if copy.send():
                        here.set_tag(run_id, WAITING_TAG, "false")
                        done.append(run_id)
                except RestException as error:  # it answers, and refuses this run
                    failure = error
                except Exception as error:
                    return done, error
        return done, failure

    def _waiting(self, here: MlflowClient) -> list[str]:
        """Ids of runs, the latest first, as MLflow sorts them."""
        experiments = [experiment.experiment_id for experiment in here.search_experiments()]
        runs = _search(
            here, experiments, f"tags.`{WAITING_TAG}` = 'true' and tags.`{SERVER_TAG}` = '{self._server.name}'"
        )
        return [run.info.run_id for run in runs]

    def _begin(self) -> threading.Thread:
        # A daemon: a process that has done its work does not wait for a server.
        self._thread = threading.Thread(target=self._work, args=(self._ending,), name="mlflow-delivery", daemon=True)
        self._thread.start()
        return self._thread

    def _work(self, ending: threading.Event) -> None:
        last = False
        while not last:
            last, began = ending.is_set(), time.thread_time()
            _done, error = self.deliver()
            self._say(error)
            if not last:
                ending.wait(max(EVERY_SECONDS, (time.thread_time() - began) / SHARE_OF_TIME))

    def _say(self, error: Exception | None) -> None:
        if error is not None and not self._warned:
            self._warned = True
            logger.warning(
                "The MLflow server %s takes nothing now (%s). The run goes on and is recorded in %s; what the server "
                "misses is sent when it answers, at the latest with the next run or by `%s`.",
                self._server.name,
                first_line(error),
                self._store,
                COMMAND,
            )
        elif error is None and self._silent:
            logger.info("The MLflow server %s answers again.", self._server.name)
        self._silent = error is not None


def first_line(error: Exception) -> str:
    """What an error says in its first line, without secrets."""
    lines = str(masked(str(error))).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Two processes that find a run missing there would make it twice."""
    descriptor = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = lock_file(path, wait=True)
    except (NoLocksError, OSError) as error:
        logger.debug("No lock on %s: %s", path, error)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _search(client: MlflowClient, experiments: list[str], query: str) -> list[Run]:
    """All runs that a query finds: MLflow gives a thousand at a time."""
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(experiments, query, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _identity(point: Metric) -> tuple[int, int, str]:
    return point.timestamp, point.step, str(point.value)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    listed = list(items)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]
