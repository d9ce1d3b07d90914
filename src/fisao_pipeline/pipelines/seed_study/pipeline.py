"""Wiring of `seed_study`: an ablation with one arm, the configuration as it is."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from fisao_pipeline.datasets.locks import SHARES_FOLDER
from fisao_pipeline.pipelines.ablation.pipeline import study_nodes


def create_pipeline(**_: object) -> Pipeline:
    """Return the study: ingested prompts, models and all stages' parameters in; means over seeds out."""
    return Pipeline(study_nodes("seed_study", "seed_comparison"), tags=["seed_study", SHARES_FOLDER])
