"""Nodes of `ablation` and `seed_study`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pandas as pd
from kedro.utils import find_kedro_project

from fisao_pipeline.artifacts.provenance import git_state
from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.datasets.keyed_folder import KeyedFolder
from fisao_pipeline.experiments.arms import StageSettings, StudyRow, plan_rows
from fisao_pipeline.experiments.fingerprints import StudyInputs
from fisao_pipeline.experiments.images import draw_arms, draw_budget
from fisao_pipeline.experiments.plot import plot_arms, plot_budget
from fisao_pipeline.experiments.results import summarise
from fisao_pipeline.experiments.study import Study
from fisao_pipeline.experiments.tables import format_study, study_document
from fisao_pipeline.libraries import library_versions
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.params.study import StudyParams
from fisao_pipeline.pipelines.ablation.stages import CatalogStages
from fisao_pipeline.pipelines.child_runs import child_run

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

logger = logging.getLogger(__name__)


class RowsFailedError(RuntimeError):
    """Some rows of a study failed; the others are kept and, where there are any, in its tables."""


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
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Sampling, annotation, training and evaluation once per arm and seed that is not kept yet; means over seeds.

    Returns:
        The comparison of all finished rows, and the rows that failed.

    Raises:
        RowsFailedError: Every row failed.
    """
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
    records, failed = study.run(plan)
    if not records:
        raise RowsFailedError(_said(failed))
    result = summarise(records, params.arms, evaluation.confidence, failed)
    # Not through the log, which wraps lines.
    click.echo(f"\n{format_study(result)}\n")
    return result, failed


def write_study(comparison: dict[str, Any]) -> str:
    """All arms with intervals, changes and commits as a Markdown document."""
    return study_document(comparison, "kedro run --pipelines=ablation")


def plot_study(comparison: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """CHAIR_i over recall of every arm, and the probe over sampled tokens: plotly figures, then images of both."""
    return plot_arms(comparison), plot_budget(comparison), draw_arms(comparison), draw_budget(comparison)


def check_study(failed: list[dict[str, Any]], *_made_before: object) -> None:
    """The last node of a study: what could be made is made, and now the run says if it was not all.

    Args:
        failed: The rows that failed.
        _made_before: Artifacts that shall be saved before this node ends the run.

    Raises:
        RowsFailedError: There is one.
    """
    if failed:
        raise RowsFailedError(_said(failed))


def _said(failed: list[dict[str, Any]]) -> str:
    lines = [f"- arm {row['arm']}, seed {row['seed']}: {row['error']}" for row in failed]
    head = f"{len(failed)} rows failed; the same command runs them again and no other:"
    return "\n".join([head, *lines])


def _track(row: StudyRow, key: str) -> AbstractContextManager[str | None]:
    tags = {"study.arm": row.arm, "study.seed": str(row.seed)}
    return child_run(f"{row.arm}, seed {row.seed}", key, tags, row.settings.flat())
