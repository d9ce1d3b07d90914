"""Nodes of `ablation` and `seed_study`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.utils import find_kedro_project

from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.datasets.keyed_folder import KeyedFolder
from fisao_pipeline.experiments.arms import StageSettings, StudyRow, plan_rows
from fisao_pipeline.experiments.fingerprints import StudyInputs
from fisao_pipeline.experiments.plot import plot_arms
from fisao_pipeline.experiments.results import format_study, summarise
from fisao_pipeline.experiments.study import Study
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params import (
    BenchmarkEvaluationParams,
    PolicyTrainingParams,
    ResponseSamplingParams,
    RewardAnnotationParams,
    StudyParams,
)
from fisao_pipeline.pipelines.ablation.stages import CatalogStages
from fisao_pipeline.pipelines.child_runs import child_run
from fisao_pipeline.provenance import git_state, library_versions

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

logger = logging.getLogger(__name__)


def run_study(
    prompts: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    annotated_categories: list[str],
    policy_backbone: ModelSource,
    verifier: ModelSource,
    study_rows: KeyedFolder,
    study_cache: KeyedFolder,
    sampling: ResponseSamplingParams,
    annotation: RewardAnnotationParams,
    training: PolicyTrainingParams,
    evaluation: BenchmarkEvaluationParams,
    params: StudyParams,
) -> dict[str, Any]:
    """Sampling, annotation, training and evaluation once per arm and seed that is not kept yet; means over seeds."""
    plan = plan_rows(StageSettings(sampling, annotation, training, evaluation), params.arms, params.seeds)
    commit, dirty = git_state(find_kedro_project(Path.cwd()) or Path.cwd())
    tables = {
        "prompts": prompts,
        "image_manifest": image_manifest,
        "annotated_categories": pd.DataFrame({"name": annotated_categories}),
    }
    study = Study(
        stages=CatalogStages(prompts, image_manifest, image_folder, annotated_categories, policy_backbone, verifier),
        inputs=StudyInputs.of(policy_backbone, verifier, tables),
        rows=study_rows,
        cache=study_cache,
        track=_track,
        information={"git_commit": commit, "git_dirty": dirty, "libraries": library_versions()},
    )
    result = summarise(study.run(plan), params.arms, evaluation.confidence)
    logger.info("Study of %d arms:\n%s", len(params.arms), format_study(result))
    return result


def plot_study(comparison: dict[str, Any]) -> Any:
    """CHAIR_i over recall of every arm, beside the base model, as a plotly figure."""
    return plot_arms(comparison)


def _track(row: StudyRow, key: str) -> AbstractContextManager[str | None]:
    tags = {"study.arm": row.arm, "study.seed": str(row.seed)}
    return child_run(f"{row.arm}, seed {row.seed}", key, tags, row.settings.flat())
