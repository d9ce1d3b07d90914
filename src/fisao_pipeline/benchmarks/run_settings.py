"""How the answers of a run were made, and the refusal to compare runs that were not made alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pandas as pd

from fisao_pipeline.benchmarks.asked import asked_hashes
from fisao_pipeline.benchmarks.comparison_inputs import DECODINGS
from fisao_pipeline.params.compare_runs import ComparedRun, RunSettings, SettingName

_OF_DECODING = {"temperature": "sampled", "samples_per_prompt": "sampled", "num_beams": "beam"}
_NEEDED = ("decoding", "image_id", "prompt", "response")
_INFORMATION = ("git_commit", "git_dirty", "created", "mlflow_run_id", "inputs", "libraries")


@dataclass(frozen=True)
class Run:
    """One model's predictions, and what is known of how they were made.

    Attributes:
        name: In tables.
        source: Version or file.
        model: Whose rows of it.
        rows: Predictions of one model, with the columns that `compare` needs but `model`.
        settings: By `SettingName`; None where it is not known.
        information: What is told beside and decides nothing: commit, libraries, versions of inputs.
    """

    name: str
    source: str
    model: str
    rows: pd.DataFrame
    settings: Mapping[SettingName, Any]
    information: Mapping[str, Any]


def read_run(
    name: str,
    run: ComparedRun,
    source: str,
    table: pd.DataFrame,
    provenance: Mapping[str, Any] | None,
    drop_unfinished_sentence: bool,
) -> Run:
    """A run with its settings: as they were given, else as recorded, else as the rows tell.

    Args:
        name: The run's name.
        run: What was asked for.
        source: Where the table was found.
        table: Predictions; without a column ``model`` all of them are the run's, without ``task`` all are captions.
        provenance: The record beside them.
        drop_unfinished_sentence: Whether captions are read up to their last whole sentence: then it counts how it is
            known which were cut off.

    Raises:
        ValueError: A column is missing, or there is no row of the model.
    """
    missing = [column for column in _NEEDED if column not in table]
    if missing:
        raise ValueError(f"compare_runs: the predictions of {name!r} ({source}) lack the columns {missing}")
    rows = table
    if "model" in table:
        rows = table[table["model"] == run.model]
        if rows.empty:
            there = sorted(set(table["model"].astype(str)))
            raise ValueError(
                f"compare_runs: {name!r} ({source}) holds no predictions of the model {run.model!r}, but of {there}; "
                f"set compare_runs.runs.{name}.model"
            )
    rows = rows.assign(**{c: None for c in ("answer", "pope_strategy") if c not in rows})
    rows = rows.assign(task="caption") if "task" not in rows else rows
    rows = rows.assign(image_id=rows["image_id"].astype(str)).drop(columns="model", errors="ignore")
    known = {key: (provenance or {}).get(key) for key in _INFORMATION}
    settings = _settings(rows, run.settings, provenance, drop_unfinished_sentence)
    return Run(name, source, run.model, rows.reset_index(drop=True), settings, known)


def _settings(
    rows: pd.DataFrame, given: RunSettings, provenance: Mapping[str, Any] | None, drop_unfinished_sentence: bool
) -> dict[SettingName, Any]:
    recorded = (provenance or {}).get("parameters") or {}
    decodings = [name for name in DECODINGS if (rows["decoding"] == name).any()]
    found: dict[SettingName, Any] = {"decodings": decodings}
    for setting, value in given.model_dump().items():
        found[setting] = value if value is not None else recorded.get(f"benchmark_evaluation.{setting}")
    hashes = {decoding: asked_hashes(rows[rows["decoding"] == decoding]) for decoding in decodings}
    for setting, part in (("images", "caption_images"), ("prompts", "caption_prompts"), ("questions", "questions")):
        found[setting] = {decoding: asked[part] for decoding, asked in hashes.items()}
    if drop_unfinished_sentence:
        told = "finish_reason" in rows and rows["finish_reason"].notna().all()
        found["truncation_rule"] = "finish_reason" if told else "sentence_end"
    return found


def refuse_different(runs: Sequence[Run], allowed: Collection[SettingName]) -> dict[str, dict[str, Any]]:
    """Refuse runs whose settings differ or are not known.

    A setting of one decoding counts where that decoding is compared: a temperature says nothing of greedy captions.

    Args:
        runs: Two or more.
        allowed: Settings in which they may differ.

    Returns:
        The settings in which they differ though that is allowed, each with every run's value.

    Raises:
        ValueError: There are others, or fewer than two runs; all are named with what to change.
    """
    if len(runs) < 2:
        raise ValueError(
            "compare_runs: two runs or more are compared, and compare_runs.runs names "
            f"{len(runs)}; for instance --params=compare_runs.runs.old=VERSION,compare_runs.runs.new=latest "
            "(versions are the folders in data/07_model_output/predictions.parquet)"
        )
    compared = common_decodings(runs)
    if not compared:
        raise ValueError(
            "compare_runs: no decoding is common to all runs: "
            + "; ".join(f"{run.name!r} has {run.settings['decodings']}" for run in runs)
        )
    differing: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    for setting in get_args(SettingName):
        if _OF_DECODING.get(setting, compared[0]) not in compared:
            continue
        values = {run.name: _value(run, setting, compared) for run in runs}
        if all(value is _ABSENT for value in values.values()):
            continue
        unknown = [name for name, value in values.items() if value is None]
        if not unknown and all(value == values[runs[0].name] for value in values.values()):
            continue
        differing[setting] = values
        if setting not in allowed:
            remedy = "".join(f"; give compare_runs.runs.{name}.settings.{setting}" for name in unknown)
            faults.append(f"- {setting}: {', '.join(f'{n} {_said(v)}' for n, v in values.items())}{remedy}")
    if faults:
        names = ",".join(setting for setting in differing if setting not in allowed)
        raise ValueError(
            "compare_runs: figures of different settings are not comparable, and these runs differ:\n"
            + "\n".join(faults)
            + f"\nTo compare them nevertheless, with the difference told beside the figures: "
            f"compare_runs.allow_different: [{names.replace(',', ', ')}]"
        )
    return differing


def common_decodings(runs: Sequence[Run]) -> list[str]:
    """The decodings that every run has, in their usual order."""
    return [name for name in DECODINGS if all(name in run.settings["decodings"] for run in runs)]


_ABSENT = object()


def _value(run: Run, setting: SettingName, compared: Sequence[str]) -> Any:
    if setting not in run.settings:
        return _ABSENT
    value = run.settings[setting]
    if setting in ("images", "prompts", "questions"):
        return {decoding: value[decoding] for decoding in compared}
    return value


def _said(value: Any) -> str:
    if value is None:
        return "(not known)"
    if isinstance(value, Mapping):
        distinct = list(dict.fromkeys(map(str, value.values())))
        return distinct[0] if len(distinct) == 1 else ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
