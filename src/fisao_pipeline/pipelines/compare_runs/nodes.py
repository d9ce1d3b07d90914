"""Nodes of `compare_runs`."""

from __future__ import annotations

from typing import Any

import click
import pandas as pd

from fisao_pipeline.benchmarks.run_comparison import compare_runs
from fisao_pipeline.benchmarks.run_settings import read_run
from fisao_pipeline.benchmarks.runs_table import runs_document
from fisao_pipeline.datasets.all_versions import AllVersions
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.compare_runs import CompareRunsParams


def compare_the_runs(
    predictions_versions: AllVersions,
    image_manifest: pd.DataFrame,
    annotated_categories: list[str],
    evaluation: BenchmarkEvaluationParams,
    params: CompareRunsParams,
) -> dict[str, Any]:
    """Every run against the first, all scored alike, by the present annotations and evaluation parameters."""
    runs = [
        read_run(name, run, *predictions_versions.read(run.predictions), evaluation.drop_unfinished_sentence)
        for name, run in params.runs.items()
    ]
    return compare_runs(runs, image_manifest, annotated_categories, evaluation, params.allow_different)


def write_runs_table(runs_comparison: dict[str, Any]) -> str:
    """The comparison as a Markdown document, which is printed as well."""
    document = runs_document(runs_comparison)
    # Not through the log, which wraps lines.
    click.echo(f"\n{document}\n")
    return document
