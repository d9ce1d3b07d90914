"""Any number of runs, each compared with the first as `comparison` compares aligned with base."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.held_out import compare_models
from fisao_pipeline.benchmarks.run_settings import Run, common_decodings, refuse_different
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.compare_runs import SettingName

_OF_ANSWERS = ("max_new_tokens", "temperature", "samples_per_prompt", "num_beams")


def compare_runs(
    runs: Sequence[Run],
    manifest: pd.DataFrame,
    annotated_categories: Collection[str],
    evaluation: BenchmarkEvaluationParams,
    allowed: Collection[SettingName] = (),
) -> dict[str, Any]:
    """Compare every run with the first; all are scored alike, by the same annotations, vocabulary and rules.

    Where images may differ, those are compared that every run has, decoding by decoding and task by task.

    Args:
        runs: Two or more.
        manifest: The ``image_manifest`` table.
        annotated_categories: Names of the categories that the annotations declare.
        evaluation: Vocabulary, bootstrap, truncation rule; how answers are made is the runs' own affair.
        allowed: Settings in which the runs may differ.

    Returns:
        JSON-ready: ``reference``, the first run's name; ``runs``, by name ``predictions``, ``model``, ``settings`` and
        ``information``; ``differing``, the settings that differ as was allowed, by run; ``left_out``, images of each
        run that are not common to all; ``pairs``, by name of every other run a `comparison` in which ``base`` is the
        reference and ``aligned`` that run.

    Raises:
        ValueError: Settings differ or are not known, nothing is common, or the predictions are not valid.
    """
    differing = refuse_different(runs, allowed)
    decodings = common_decodings(runs)
    runs = [replace(run, rows=run.rows[run.rows["decoding"].isin(decodings)]) for run in runs]
    runs, left_out = _common_images(runs)
    same = not {"prompts", "images", "questions", "samples_per_prompt"} & set(differing)
    pairs = {run.name: _pair(runs[0], run, manifest, annotated_categories, evaluation, same) for run in runs[1:]}
    return {
        "reference": runs[0].name,
        "runs": {
            run.name: {
                "predictions": run.source,
                "model": run.model,
                "settings": dict(run.settings),
                "information": dict(run.information),
            }
            for run in runs
        },
        "differing": differing,
        "left_out": left_out,
        "pairs": pairs,
    }


def _common_images(runs: Sequence[Run]) -> tuple[list[Run], dict[str, int]]:
    """The rows about images that every run has with that decoding and task, and how many images of a run go."""
    keys = [set(zip(r.rows["decoding"], r.rows["task"], r.rows["image_id"], strict=True)) for r in runs]
    common = set.intersection(*keys)
    if not common:
        raise ValueError(
            "compare_runs: no image is common to all runs; are they of the same data? Ids begin with "
            + "; ".join(f"{run.name}: {run.rows['image_id'].iloc[:3].tolist()}" for run in runs)
        )
    kept = []
    for run in runs:
        rows = run.rows
        there = [key in common for key in zip(rows["decoding"], rows["task"], rows["image_id"], strict=True)]
        kept.append(replace(run, rows=rows[there].reset_index(drop=True)))
    before, after = ([run.rows["image_id"].nunique() for run in some] for some in (runs, kept))
    return kept, {run.name: old - new for run, old, new in zip(runs, before, after, strict=True) if old > new}


def _pair(
    reference: Run,
    run: Run,
    manifest: pd.DataFrame,
    annotated_categories: Collection[str],
    evaluation: BenchmarkEvaluationParams,
    same_questions: bool,
) -> dict[str, Any]:
    columns = [name for name in reference.rows if name in run.rows]
    table = pd.concat(
        [reference.rows[columns].assign(model="base"), run.rows[columns].assign(model="aligned")], ignore_index=True
    )
    try:
        comparison = compare_models(table, manifest, annotated_categories, evaluation, same_questions)
    except ValueError as error:
        raise ValueError(
            f"compare_runs: {reference.name!r} (base) and {run.name!r} (aligned) cannot be compared: {error}"
        ) from error
    settings: Mapping[str, Any] = comparison["settings"]
    own = {name: run.settings.get(name) for name in _OF_ANSWERS}
    return {**comparison, "settings": {**settings, **own}}
