"""The README.md beside an adapter: what it is of, how it was made, what it changed; for a reader and for the hub."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import pandas as pd

from fisao_pipeline.params.base import SPLITS

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")
PROBE = {
    "probe_chair_i": "false mentions among mentions (CHAIR_i)",
    "probe_recall": "objects of the picture that are named",
    "probe_objects": "mentions per answer",
    "probe_reward": "reward per answer",
}


class SplitData(NamedTuple):
    """What one split holds: how many prompts, about how many images, and the first folders of their names."""

    split: str
    prompts: int
    images: int
    folders: tuple[str, ...]


def model_card(
    *,
    base_model: str,
    revision: str | None,
    identity: str | None,
    data: Sequence[SplitData],
    settings: Mapping[str, Any],
    probe: Mapping[str, tuple[float, float]],
    comparison: str | None = None,
    own_encoder: bool | None = None,
) -> str:
    """Write the card.

    Args:
        base_model: Hub id, or a folder's path, of which the name alone is told.
        revision: Of the hub.
        identity: `models.source.loaded_identity` of the base model.
        data: What there was to calibrate on, to train on and to measure with; see ``data_by_split``.
        settings: Dotted parameters with plain values.
        probe: Numbers before and after training on the probe's prompts, greedy; empty without a probe.
        comparison: Markdown of base against aligned on held-out images, where it was evaluated.
        own_encoder: Whether the rewards came from the base model's own vision encoder; None where that is not known.

    Returns:
        Markdown with a YAML head. Texts of the user are escaped: they cannot become markup, HTML or YAML.
    """
    local = PurePath(base_model).is_absolute() or base_model.startswith((".", "~", "data/")) or "\\" in base_model
    name = re.split(r"[/\\]", base_model.rstrip("/\\"))[-1] if local else base_model
    # A folder's name would be taken for an id on the hub.
    head = [] if local else [f"base_model: {json.dumps(name)}"]
    eyes = {True: "the base model's own", False: "another model's", None: "not known to be the base model's own"}
    lines = [
        "---",
        *head,
        "library_name: peft",
        "pipeline_tag: image-text-to-text",
        "tags: [lora, ppo, fisao]",
        "---",
        "",
        f"# LoRA adapter for {_plain(name)}",
        "",
        "Trained by FiSAO (arXiv 2410.14148): token-level rewards from a vision encoder, so that answers name fewer "
        "objects that are not in the picture. The adapter is on the language tower; the vision tower is that of the "
        "base model.",
        "",
        f"- base model: {_plain(name)}" + (f", revision {_plain(revision)}" if revision else ""),
        *([f"- its weights: {_plain(identity)}"] if identity else []),
        f"- vision encoder that the rewards came from: {eyes[own_encoder]}",
        "",
        "## Before and after",
        "",
    ]
    if comparison is not None:
        lines += [comparison.strip(), ""]
    if probe:
        lines += [
            "On the probe's prompts, greedy, where the round that is kept was chosen:",
            "",
            "| | before | after |",
            "|---|---|---|",
            *(f"| {PROBE[key]} | {before:.3f} | {after:.3f} |" for key, (before, after) in probe.items()),
            "",
        ]
    if comparison is None and not probe:
        lines += ["Not measured.", ""]
    lines += ["## Data", "", "| split | prompts | images | folders |", "|---|---|---|---|"]
    lines += [f"| {d.split} | {d.prompts:,} | {d.images:,} | {_plain(', '.join(d.folders))} |" for d in data]
    lines += ["", "Held-out images were neither calibrated on nor trained on.", ""]
    lines += ["## Settings", "", "| parameter | value |", "|---|---|"]
    lines += [f"| {_plain(key)} | {_plain(_without_path(value))} |" for key, value in sorted(settings.items())]
    return "\n".join(lines) + "\n"


def data_by_split(prompts: pd.DataFrame, manifest: pd.DataFrame) -> list[SplitData]:
    """What each split holds.

    Args:
        prompts: The ``prompts`` table, without those that were rejected.
        manifest: The ``image_manifest`` table.
    """
    folder = manifest.set_index("image_id")["file_name"].str.partition("/")
    found = []
    for split in SPLITS:
        images = prompts.loc[prompts["split"] == split, "image_id"]
        if len(images):
            parts = folder.loc[images.unique()]
            inside = sorted(set(parts.loc[parts[1] == "/", 0]))
            found.append(SplitData(split, len(images), len(parts), tuple(inside)))
    return found


def probe_changes(history: list[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """The probe's numbers before the first round and after the kept one, of a training history's rows."""
    before = next((row for row in history if row["round"] < 0), None)
    kept = next((row for row in history if row["kept"]), None)
    if before is None or kept is None:
        return {}
    pairs = {key: (before.get(key), kept.get(key)) for key in PROBE}
    return {
        key: (float(a), float(b))
        for key, (a, b) in pairs.items()
        if a is not None and b is not None and not math.isnan(a) and not math.isnan(b)
    }


def _plain(value: Any) -> str:
    """Text as text: on one line, Markdown's and HTML's signs escaped."""
    line = " ".join(str(value).split())
    return _SPECIAL.sub(r"\\\1", line.replace("&", "&amp;"))


def _without_path(value: Any) -> Any:
    """A path in a setting (a vocabulary file) tells its name alone."""
    if isinstance(value, str) and (PurePath(value).is_absolute() or re.match(r"[A-Za-z]:[\\/]", value)):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value
