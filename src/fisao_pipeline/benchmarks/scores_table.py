"""Scores as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fisao_pipeline.benchmarks.comparison_table import markdown_table

# What is no share, printed as it is.
_PLAIN = frozenset(
    {
        "objects_per_caption",
        "repeated_mentions",
        "score",
        "perception_score",
        "cognition_score",
        "cider",
        "clip_score",
        "bleu_4_rouge_l_cider_mean",
    }
)


def format_scores(report: Mapping[str, Any]) -> str:
    """Write each benchmark's figures as a Markdown table, with what they rest on and what was left out.

    Args:
        report: ``prediction_scores``: ``model``, ``settings`` and ``benchmarks``.
    """
    resampling = report["settings"]
    lines = [
        f"{report['model']}: {resampling['confidence']:.0%} intervals in brackets "
        f"(bootstrap over images, {resampling['bootstrap_resamples']} resamples)."
    ]
    for name, scored in report["benchmarks"].items():
        rows = [(metric, _cell(metric, value)) for metric, value in scored["metrics"].items()]
        lines += ["", f"{name}: {_sizes(scored['counts'])}", "", *markdown_table([("metric", report["model"]), *rows])]
    return "\n".join(lines)


def _sizes(counts: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for name, of in counts.items():
        said = [f"{of['scored']} of {of['rows']} predictions scored"]
        said += [f"{count} left out ({reason})" for reason, count in of["left_out"].items()]
        said += [f"none for {of['unanswered']} more in the annotations"] if of["unanswered"] else []
        said += [f"{of['empty']} empty"] if of["empty"] else []
        said += [f"{of['not_in_latin_letters']} not in Latin letters"] if of["not_in_latin_letters"] else []
        parts.append((f"{name}: " if name else "") + ", ".join(said))
    return "; ".join(parts)


def _cell(metric: str, interval: Mapping[str, float | None]) -> str:
    scale, unit = (1, "") if metric.rsplit(".", 1)[-1] in _PLAIN else (100, " %")
    if interval["value"] is None:
        return "–"
    bounds = f" [{interval['low'] * scale:.2f}, {interval['high'] * scale:.2f}]" if interval["low"] is not None else ""
    return f"{interval['value'] * scale:.2f}{unit}{bounds}"
