"""Nodes of `score_predictions`."""

from __future__ import annotations

import logging
from typing import Any

import click
import pandas as pd

from fisao_pipeline.ingestion.rejections import collect_rejections, rejections_table
from fisao_pipeline.params import ScorePredictionsParams
from fisao_pipeline.pipelines.metrics import metrics_to_active_run
from fisao_pipeline.pipelines.score_predictions.inputs import ScoringInput, read_inputs

logger = logging.getLogger(__name__)


def read_scoring_inputs(params: ScorePredictionsParams) -> tuple[list[ScoringInput], pd.DataFrame]:
    """Predictions and truth of every benchmark that has predictions, and the rows that cannot be scored."""
    inputs = read_inputs(params)
    tables = [predictions.rejected for one in inputs for predictions in one.predictions.values()]
    return inputs, collect_rejections(rejections_table(()), *tables, listed_in="rejected_predictions")


def score_inputs(inputs: list[ScoringInput], params: ScorePredictionsParams) -> tuple[dict[str, Any], pd.DataFrame]:
    """Figures and items of every benchmark; refuses predictions of which too many cannot be scored."""
    from fisao_pipeline.benchmarks.scores_table import format_scores  # noqa: PLC0415 - slow to import
    from fisao_pipeline.pipelines.score_predictions.scoring import score_all  # noqa: PLC0415

    report, items = score_all(inputs, params)
    with metrics_to_active_run("score.") as log_metrics:
        log_metrics(
            {
                f"{name}.{metric}": interval["value"]
                for name, scored in report["benchmarks"].items()
                for metric, interval in scored["metrics"].items()
                if interval["value"] is not None
            },
            0,
        )
    # Not through the log, which wraps lines.
    click.echo(format_scores(report))
    return report, items
