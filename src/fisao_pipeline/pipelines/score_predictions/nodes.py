"""Nodes of `score_predictions`."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import click
import pandas as pd

from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.ingestion.rejections import collect_rejections, rejections_table
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params.score_predictions import ScorePredictionsParams
from fisao_pipeline.pipelines.metrics import metrics_to_active_run
from fisao_pipeline.pipelines.score_predictions.inputs import (
    ScoringInput,
    file_digests,
    read_clip_captions,
    read_inputs,
)

logger = logging.getLogger(__name__)


def read_scoring_inputs(params: ScorePredictionsParams) -> tuple[list[ScoringInput], pd.DataFrame]:
    """Predictions and truth of every benchmark that has predictions, and the rows that cannot be scored."""
    inputs = read_inputs(params)
    tables = [predictions.rejected for one in inputs for predictions in one.predictions.values()]
    return inputs, collect_rejections(rejections_table(()), *tables, listed_in="rejected_predictions")


def score_captions_with_verifier(
    image_folder: ImageFolder, verifier: ModelSource, params: ScorePredictionsParams
) -> tuple[list[ScoringInput], pd.DataFrame]:
    """Captions of images in the folder with the verifier's cosines, as CLIPScore reads them."""
    from fisao_pipeline.benchmarks.clip_score import clip_text  # noqa: PLC0415 - slow to import
    from fisao_pipeline.models.verifier import load_verifier  # noqa: PLC0415
    from fisao_pipeline.training.caption_cosines import caption_cosines  # noqa: PLC0415

    found = read_clip_captions(params.clip_score, image_folder)
    texts = [clip_text(caption) for caption in found.table["response"]]
    ids = list(found.table["item_id"])
    cosines, cut = caption_cosines(load_verifier(verifier), ids, texts, image_folder.open)
    if cut:
        logger.warning("%d of the captions are longer than the verifier's context and were cut.", cut)
    table = found.table.assign(caption=found.table["response"], response=cosines)
    truth = {"verifier": verifier.path_or_id, "cut_captions": cut}
    one = ScoringInput("clip_score", {"": replace(found, table=table)}, truth, file_digests(params, "clip_score"))
    return [one], collect_rejections(rejections_table(()), found.rejected, listed_in="rejected_predictions")


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
