"""Metrics to the active MLflow run while a node works, many points in one request; without a run they go nowhere."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Metric

logger = logging.getLogger(__name__)

# A request costs tens of milliseconds, an optimiser step of a pocket model not much more: so they share requests.
SEND_EVERY_SECONDS = 15.0


@contextmanager
def metrics_to_active_run(prefix: str) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """Log to the MLflow run that is active now, at most one request in fifteen seconds, the rest when the block ends.

    A tracking server that fails is reported once and left alone from then on, never raised.

    Args:
        prefix: Goes before every name: ``training.`` makes ``training.kl`` of ``kl``.

    Yields:
        A function of metrics and their step; values that are not finite are left out, as MLflow cannot plot them.
    """
    import mlflow  # noqa: PLC0415 - slow to import

    run = mlflow.active_run()
    if run is None:
        yield lambda metrics, step: None
        return
    points = _Points(run.info.run_id, prefix)
    try:
        yield points.add
    finally:
        points.send()


class _Points:
    """Metrics of one run that wait to be sent."""

    def __init__(self, run_id: str, prefix: str):
        self._run_id, self._prefix = run_id, prefix
        self._waiting: list[Metric] = []
        self._sent_at = -math.inf
        self._failed = False

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Take metrics with the time of now, and send all that wait if the last request was long enough ago."""
        from mlflow.entities import Metric  # noqa: PLC0415 - slow to import

        now = int(time.time() * 1000)
        self._waiting += [
            Metric(f"{self._prefix}{name}", value, now, step) for name, value in metrics.items() if math.isfinite(value)
        ]
        if time.monotonic() - self._sent_at >= SEND_EVERY_SECONDS:
            self.send()

    def send(self) -> None:
        """Send what waits, in as few requests as MLflow takes."""
        import mlflow  # noqa: PLC0415 - slow to import
        from mlflow.utils.validation import MAX_METRICS_PER_BATCH  # noqa: PLC0415

        waiting, self._waiting = self._waiting, []
        try:
            for start in range(0, 0 if self._failed else len(waiting), MAX_METRICS_PER_BATCH):
                batch = waiting[start : start + MAX_METRICS_PER_BATCH]
                mlflow.MlflowClient().log_batch(self._run_id, metrics=batch)
        except Exception as error:
            self._failed = True
            logger.warning("MLflow takes no metrics (%s); those of this node from now on are not logged.", error)
        self._sent_at = time.monotonic()
