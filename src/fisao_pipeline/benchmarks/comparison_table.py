"""The comparison as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fisao_pipeline.benchmarks.metric_titles import ROW_TITLES, scale_and_digits

_HEADER = ("metric", "base", "aligned", "change", "relative change")


def format_table(comparison: Mapping[str, Any]) -> str:
    """Write base, aligned and change with their intervals as Markdown tables, one per decoding.

    Shares are printed in percent and their changes in percentage points; ↓ and ↑ say which way is better. Metrics that
    are undefined for both models have no row; the notes name them.

    Args:
        comparison: What `fisao_pipeline.benchmarks.comparison.compare` returns.
    """
    settings = comparison["settings"]
    lines = [
        f"Base against aligned, {settings['confidence']:.0%} intervals "
        f"(paired bootstrap over images, {settings['n_resamples']} resamples)."
    ]
    for decoding, change in comparison["change"].items():
        rows = [
            _row(name, comparison["base"][decoding][name], comparison["aligned"][decoding][name], change)
            for name in comparison["base"][decoding]
            if any(comparison[model][decoding][name]["value"] is not None for model in ("base", "aligned"))
        ]
        lines += ["", title(decoding, settings["samples"][decoding])]
        lines += [*filter(None, [settings_line(settings, decoding)])]
        lines += ["", *markdown_table([_HEADER, *rows])] if rows else []
    lines += ["", *(f"Note: {note}." for note in comparison["notes"])] if comparison["notes"] else []
    return "\n".join(lines)


def title(decoding: str, sizes: Mapping[str, Any]) -> str:
    """What one decoding's table is of, and what it rests on."""
    parts = []
    if sizes["captions"]:
        parts.append(f"{sizes['captions']} captions of {sizes['caption_images']} images")
    if sizes["images_without_annotation"]:
        parts.append(f"{sizes['images_without_annotation']} images without annotation left out")
    if sizes["pope_questions"]:
        parts.append(f"{sizes['pope_questions']} questions on {sizes['pope_images']} images")
    return f"{decoding} decoding: " + "; ".join(parts)


def settings_line(settings: Mapping[str, Any], decoding: str) -> str:
    """What one decoding's figures hang on, in a line, as far as the comparison tells it (one of before tells less)."""
    asked = settings.get("asked", {}).get(decoding, {})
    unfinished = settings.get("unfinished_captions", {}).get(decoding)
    parts = [
        ("up to {} tokens", settings.get("max_new_tokens")),
        ("temperature {:g}", settings.get("temperature") if decoding == "sampled" else None),
        ("{} beams", settings.get("num_beams") if decoding == "beam" else None),
        ("vocabulary {}", settings.get("vocabulary")),
        ("word chain {}", settings.get("word_chain")),
        ("images {}", asked.get("caption_images")),
        ("prompts {}", asked.get("caption_prompts")),
        ("questions {}", asked.get("questions")),
    ]
    told = [text.format(value) for text, value in parts if value is not None]
    if unfinished is not None and "drop_unfinished_sentence" in settings and asked.get("caption_images"):
        what = "dropped" if settings["drop_unfinished_sentence"] else "read"
        counts = " and ".join(str(count) for count in unfinished.values())
        told.append(f"unfinished last sentences ({counts} captions) {what}")
    return f"Settings: {'; '.join(told)}." if len(told) > 1 else ""


def _row(name: str, base: Mapping[str, Any], aligned: Mapping[str, Any], change: Mapping[str, Any]) -> tuple[str, ...]:
    title = ROW_TITLES.get(name, name)
    scale, digits = scale_and_digits(name)
    return (
        title,
        interval_cell(base, scale, digits),
        interval_cell(aligned, scale, digits),
        interval_cell(change[name], scale, digits, sign="+"),
        interval_cell(change[f"{name}_relative"], 100, 1, sign="+", unit=" %"),
    )


def interval_cell(interval: Mapping[str, float | None], scale: int, digits: int, sign: str = "", unit: str = "") -> str:
    """A value and its interval; a dash where it is undefined."""

    def show(value: float | None) -> str:
        return "–" if value is None else f"{value * scale:{sign}.{digits}f}"

    if interval["value"] is None:
        return "–"
    bounds = f" [{show(interval['low'])}, {show(interval['high'])}]" if interval["low"] is not None else ""
    return show(interval["value"]) + unit + bounds


def markdown_table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a Markdown table, columns padded to one width; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
