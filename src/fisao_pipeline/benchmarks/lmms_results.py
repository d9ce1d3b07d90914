"""What lmms-eval found for base and aligned model, in the form of `fisao_pipeline.benchmarks.comparison`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings, Interval, bootstrap_changes, bootstrap_metrics
from fisao_pipeline.benchmarks.comparison_inputs import MODELS
from fisao_pipeline.benchmarks.comparison_table import interval_cell, markdown_table
from fisao_pipeline.benchmarks.ratios import RatioMetrics

TaskResult = dict[str, Any]
"""Of one task: ``metrics``, ``higher_is_better``, ``questions`` (hash of each by its number), ``values`` (each metric's
value by question, where it is a number for every one), ``settings``, ``empty_answers``."""

# What of a task's configuration its figures hang on, beside the questions.
_TOLD = ("dataset_path", "dataset_name", "test_split", "generation_kwargs", "lmms_eval_specific_kwargs", "num_fewshot")
_SAME_MEAN = 1e-9


def read_results(folder: Path) -> dict[str, TaskResult]:
    """Read what one run of lmms-eval wrote.

    Args:
        folder: Its ``--output_path``, of a run with ``--log_samples``.

    Returns:
        By task, those of groups one by one; a figure of a group itself has no questions.

    Raises:
        ValueError: There is not one file of results, or it holds no figure.
    """
    files = sorted(folder.rglob("*_results.json"))
    if len(files) != 1:
        raise ValueError(f"lmms-eval wrote {len(files)} files of results into '{folder}', not one")
    report = json.loads(files[0].read_text(encoding="utf-8"))
    tasks = {}
    for task, entries in report["results"].items():
        metrics = {name: value for name, value in _metrics(entries)}
        if metrics:
            samples = files[0].with_name(files[0].name.replace("_results.json", f"_samples_{task}.jsonl"))
            tasks[task] = _task(task, metrics, _rows(samples), report)
    if not tasks:
        raise ValueError(f"lmms-eval measured nothing: {files[0]} holds no figure")
    return tasks


def _metrics(entries: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Figures by name: ``exact_match`` of "exact_match,none"; other filters of the answers keep theirs in the name."""
    found = []
    for key, value in entries.items():
        name, _, kept_by = key.partition(",")
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if kept_by and number and not name.endswith(("_stderr", "_stderr_clt", "_stderr_clustered")):
            found.append((name if kept_by == "none" else key, float(value)))
    return found


def _rows(samples: Path) -> list[dict[str, Any]]:
    if not samples.is_file():
        return []
    return [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]


def _task(
    task: str, metrics: dict[str, float], rows: Sequence[dict[str, Any]], report: Mapping[str, Any]
) -> TaskResult:
    config = report["configs"].get(task, {})
    return {
        "metrics": metrics,
        "higher_is_better": report.get("higher_is_better", {}).get(task, {}),
        "questions": {str(row["doc_id"]): row["doc_hash"] for row in rows},
        "values": {name: values for name in metrics if (values := _by_question(name, metrics[name], rows))},
        "empty_answers": sum(not _said(row) for row in rows),
        "settings": {
            "version": report.get("versions", {}).get(task),
            **{name: config[name] for name in _TOLD if config.get(name) is not None},
        },
    }


def _by_question(name: str, figure: float, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """A metric's value of every question, where the figure is their mean; none where it is made in another way."""
    values = {str(row["doc_id"]): row.get(name) for row in rows}
    if not values or not all(isinstance(value, int | float) for value in values.values()):
        return {}
    mean = sum(values.values()) / len(values)
    return {key: float(value) for key, value in values.items()} if abs(mean - figure) <= _SAME_MEAN else {}


def _said(row: Mapping[str, Any]) -> bool:
    answers = row.get("filtered_resps")
    return any(str(answer).strip() for answer in (answers if isinstance(answers, list) else [answers]))


def compare_tasks(
    results: Mapping[str, Mapping[str, TaskResult]], settings: Mapping[str, Any], resampling: BootstrapSettings
) -> dict[str, Any]:
    """Base against aligned on every task.

    Intervals are of the paired bootstrap over questions (lmms-eval does not say which share an image), where a figure
    is a mean over questions; one that is made in another way, such as MME's score, has none.

    Args:
        results: By model (base, aligned) what `read_results` gave.
        settings: What the figures hang on, to stand beside them.
        resampling: Bootstrap settings.

    Returns:
        As `fisao_pipeline.benchmarks.comparison.compare`, a task standing where a decoding stands there: ``base``,
        ``aligned`` and ``change`` by task and metric; ``settings`` with the ``tasks``' own; ``higher_is_better``;
        ``categories``, ``mcnemar`` and ``examples`` are empty.

    Raises:
        ValueError: The two models were not asked the same.
    """
    base, aligned = (results[model] for model in MODELS)
    report: dict[str, Any] = {
        "settings": {
            **settings,
            "n_resamples": resampling.n_resamples,
            "confidence": resampling.confidence,
            "seed": resampling.seed,
            "tasks": {},
        },
        "notes": [],
        **{part: {} for part in ("base", "aligned", "change", "higher_is_better", "categories", "mcnemar", "examples")},
    }
    if list(base) != list(aligned):
        raise ValueError(f"lmms-eval measured {list(base)} of base and {list(aligned)} of aligned")
    for task in base:
        pair = {"base": base[task], "aligned": aligned[task]}
        _refuse_unlike(task, pair)
        empty = {model: pair[model]["empty_answers"] for model in MODELS}
        report["settings"]["tasks"][task] = {
            **base[task]["settings"],
            "questions": len(base[task]["questions"]),
            "empty_answers": empty,
        }
        report["higher_is_better"][task] = base[task]["higher_is_better"]
        _add_task(report, task, pair, resampling)
    return report


def _refuse_unlike(task: str, pair: Mapping[str, TaskResult]) -> None:
    for what in ("questions", "settings"):
        if pair["base"][what] != pair["aligned"][what]:
            raise ValueError(f"{task}: base and aligned were not asked the same: their {what} differ")


def _add_task(report: dict[str, Any], task: str, pair: Mapping[str, TaskResult], resampling: BootstrapSettings) -> None:
    common = [name for name in pair["base"]["metrics"] if name in pair["aligned"]["metrics"]]
    resampled = [name for name in common if all(name in pair[model]["values"] for model in MODELS)]
    metrics: RatioMetrics = {name: (name, "questions") for name in resampled}
    tables = {model: _table(pair[model], resampled) for model in MODELS} if resampled else {}
    for model in MODELS:
        found = bootstrap_metrics(tables[model], metrics, resampling) if resampled else {}
        report[model][task] = {
            name: found.get(name, Interval(pair[model]["metrics"][name], None, None)).to_dict() for name in common
        }
    changes = bootstrap_changes(tables["base"], tables["aligned"], metrics, resampling) if resampled else {}
    report["change"][task] = change = {}
    for name in common:
        difference, relative = changes.get(name) or _plain_change(*(pair[model]["metrics"][name] for model in MODELS))
        change |= {name: difference.to_dict(), f"{name}_relative": relative.to_dict()}
    plain = [name for name in common if name not in resampled]
    if plain:
        report["notes"].append(f"{task}: no interval of {', '.join(plain)}, which is no mean over questions")


def _table(result: TaskResult, metrics: Sequence[str]) -> pd.DataFrame:
    """One row a question; a question is what is resampled, under the name of an image."""
    ids = list(result["questions"])
    values = {name: [result["values"][name][key] for key in ids] for name in metrics}
    return pd.DataFrame({"image_id": ids, "questions": 1, **values})


def _plain_change(base: float, aligned: float) -> tuple[Interval, Interval]:
    relative = (aligned - base) / base if base else None
    return Interval(aligned - base, None, None), Interval(relative, None, None)


def format_tasks(comparison: Mapping[str, Any]) -> str:
    """A Markdown table: a row for each figure of each task, as lmms-eval scales it."""
    settings = comparison["settings"]
    rows = [("task", "questions", "metric", "base", "aligned", "change")]
    for task, metrics in comparison["base"].items():
        for name in metrics:
            better = comparison["higher_is_better"][task].get(name)
            arrow = {True: " ↑", False: " ↓"}.get(better, "")
            cells = [interval_cell(comparison[part][task][name], 1, 4) for part in ("base", "aligned")]
            change = interval_cell(comparison["change"][task][name], 1, 4, sign="+")
            rows.append((task, str(settings["tasks"][task]["questions"]), f"{name}{arrow}", *cells, change))
    lines = [
        f"Base against aligned by {settings['harness']}, {settings['confidence']:.0%} intervals (paired bootstrap over "
        f"questions, {settings['n_resamples']} resamples).",
        f"Settings: {settings['harness_model']} ({settings['model_args']})"
        + (f"; the first {settings['limit']} questions of each task alone." if settings["limit"] else "."),
        "",
        *markdown_table(rows),
    ]
    lines += ["", *(f"Note: {note}." for note in comparison["notes"])] if comparison["notes"] else []
    return "\n".join(lines)
