"""Metrics to the active MLflow run while a node works, in one request a step; without a run they go nowhere."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping

logger = logging.getLogger(__name__)


def log_to_active_run(metrics: Mapping[str, float], step: int, prefix: str = "training.") -> None:
    """Log finite metrics as ``<prefix><name>``. A tracking server that fails is reported, never raised."""
    import mlflow  # noqa: PLC0415 - slow to import
    from mlflow.entities import Metric  # noqa: PLC0415

    run = mlflow.active_run()
    if run is None:
        return
    now = int(time.time() * 1000)
    batch = [Metric(f"{prefix}{name}", value, now, step) for name, value in metrics.items() if math.isfinite(value)]
    try:
        mlflow.MlflowClient().log_batch(run.info.run_id, metrics=batch)
    except Exception as error:
        logger.warning("MLflow took no metrics of step %d: %s", step, error)
