"""The comparison of several runs as a Markdown document, its settings beside every table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fisao_pipeline.benchmarks.comparison_table import interval_cell, markdown_table, settings_line, title
from fisao_pipeline.benchmarks.metric_titles import ROW_TITLES, scale_and_digits


def runs_document(result: Mapping[str, Any]) -> str:
    """What `fisao_pipeline.benchmarks.run_comparison.compare_runs` returns, as Markdown.

    One table a decoding: every run's figures, and beside those of each further run their change against the first.
    """
    reference, pairs = result["reference"], result["pairs"]
    first = next(iter(pairs.values()))
    settings = first["settings"]
    lines = [
        f"# Runs against {_plain(reference)}",
        "",
        f"{settings['confidence']:.0%} intervals, paired bootstrap over images, {settings['n_resamples']} resamples. "
        "All runs are scored alike, by the same annotations. "
        + (f"{len(pairs)} runs are compared with one: no interval is widened for that." if len(pairs) > 1 else ""),
        "",
        *markdown_table(_runs(result)),
    ]
    if result["differing"]:
        lines += ["", "**These runs were not made alike; differences may come from:**", ""]
        lines += [f"- {name}: {_by_run(values)}" for name, values in result["differing"].items()]
    if result["left_out"]:
        counts = ", ".join(f"{count} of {_plain(name)}" for name, count in result["left_out"].items())
        lines += ["", f"Images that not every run has are left out: {counts}."]
    for decoding in first["base"]:
        lines += ["", f"## {title(decoding, settings['samples'][decoding])}", ""]
        lines += [*markdown_table(_figures(reference, pairs, decoding)), ""]
        for name, pair in pairs.items():
            lines += [*_lines_of_pair(name, pair, decoding), ""]
    notes = dict.fromkeys(note for pair in pairs.values() for note in pair["notes"])
    lines += [f"Note: {note}." for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def _runs(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = [("run", "predictions", "model", "adapter", "commit", "package, torch, transformers")]
    for name, run in result["runs"].items():
        known = run["information"]
        libraries, inputs = known.get("libraries") or {}, known.get("inputs") or {}
        versions = [str(libraries.get(library, "–")) for library in ("fisao-pipeline", "torch", "transformers")]
        adapter = inputs.get("policy_adapter") if run["model"] == "aligned" else None
        commit = str(known.get("git_commit") or "–")[:10]
        rows.append((name, run["predictions"], run["model"], adapter or "–", commit, ", ".join(versions)))
    return [tuple(map(_plain, row)) for row in rows]


def _figures(reference: str, pairs: Mapping[str, Any], decoding: str) -> list[tuple[str, ...]]:
    header = ["metric", reference]
    for name in pairs:
        header += [name, f"{name} − {reference}"]
    rows = [tuple(map(_plain, header))]
    names = dict.fromkeys(metric for pair in pairs.values() for metric in pair["base"][decoding])
    for metric in names:
        shown = ROW_TITLES.get(metric, metric)
        scale, digits = scale_and_digits(metric)
        having = [pair for pair in pairs.values() if metric in pair["base"][decoding]]
        cells = [interval_cell(having[0]["base"][decoding][metric], scale, digits)]
        for pair in pairs.values():
            for part, sign in (("aligned", ""), ("change", "+")):
                interval = pair[part][decoding].get(metric)
                cells.append(interval_cell(interval, scale, digits, sign) if interval else "–")
        if any(cell != "–" for cell in cells):
            rows.append((shown, *cells))
    return rows


def _lines_of_pair(name: str, pair: Mapping[str, Any], decoding: str) -> list[str]:
    """Under a table, of one run: its settings, McNemar's test, images won and lost."""
    lines = [f"- {_plain(name)}: {settings_line(pair['settings'], decoding)}"]
    test = pair["mcnemar"].get(decoding, {}).get("all")
    if test:
        lines.append(
            f"  Yes/no questions that only the first answers right {test['only_base_right']}, only this run "
            f"{test['only_aligned_right']}, of {test['questions']} "
            f"(McNemar, {test['method']}: p = {test['p_value']:.2g})."
        )
    counts = pair["examples"].get(decoding, {}).get("counts")
    if counts:
        won, lost, tied = (counts[kind]["images"] for kind in ("win", "lose", "tie"))
        lines.append(f"  Images with fewer false mentions than the first {won}, with more {lost}, with as many {tied}.")
    return lines


def _by_run(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{_plain(name)} {_plain('not known' if value is None else value)}" for name, value in values.items()
    )


def _plain(value: object) -> str:
    """A name or a path in a Markdown table: no cell ends early, no line breaks."""
    return " ".join(str(value).replace("|", "\\|").split())
