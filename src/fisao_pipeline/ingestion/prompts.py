"""Prompts from JSON Lines, LLaVA-Instruct JSON or one template, joined to images and dealt into splits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from fisao_pipeline.ingestion.annotations import NamedContent, image_problem
from fisao_pipeline.ingestion.names import ImageNames
from fisao_pipeline.ingestion.rejections import Rejection, as_id, as_text, rejections_table
from fisao_pipeline.ingestion.splits import assign_split, require_splits
from fisao_pipeline.params import SPLITS, ImageIngestionParams

PROMPT_COLUMNS = ["prompt_id", "image_id", "prompt", "split"]
IMAGE_TOKEN = "<image>"
# What a tokenizer would read as a control token, not as text: it would end the prompt, or ask for a second image.
_CONTROL_TOKEN = re.compile(r"</?s>|<(?:pad|unk|bos|eos|image|video)>|<\|[^<>]*\|>")
_HUMAN = frozenset({"human", "user"})


@dataclass(frozen=True)
class _Prompt:
    """One prompt on its way: ``split`` is what its row asks for, None to let the image's content decide."""

    prompt_id: str
    image: str
    text: str
    split: str | None = None


class _RefusedError(ValueError):
    """A row that is not used; the message is the reason."""


def make_prompts(
    manifest: pd.DataFrame,
    files: Sequence[NamedContent] | None,
    refused_images: pd.DataFrame,
    params: ImageIngestionParams,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Build the prompts table.

    Args:
        manifest: Usable images: ``image_id``, ``file_name``, ``sha256``.
        files: ``(name, parsed rows)`` of each prompts file, or None to apply the template to every image.
        refused_images: Refused files (column ``name``), to tell a refused image from a missing one.
        params: Template, split fractions and seed.

    Returns:
        The prompts (``PROMPT_COLUMNS``, in file order) and the refused rows. All prompts of byte-identical images
        share one split.

    Raises:
        ValueError: A file is no list of rows, the template is no usable prompt, or a required split is empty.
    """
    rejections: list[Rejection] = []
    if files is None:
        template = _template_text(params.template_prompt)
        prompts = [_Prompt(row.image_id, row.file_name, template) for row in manifest.itertuples()]
    else:
        prompts = _read_files(files, manifest, refused_images, rejections)
    prompts = _deal(prompts, dict(zip(manifest["file_name"], manifest["sha256"], strict=True)), params, rejections)
    refused = rejections_table(rejections)
    if not prompts:
        raise ValueError(f"No usable prompt is left. The first refusals: {refused.head(3).to_dict('records')}")
    require_splits({prompt.split for prompt in prompts if prompt.split}, params)
    image_ids = dict(zip(manifest["file_name"], manifest["image_id"], strict=True))
    rows = [(prompt.prompt_id, image_ids[prompt.image], prompt.text, prompt.split) for prompt in prompts]
    return pd.DataFrame(rows, columns=PROMPT_COLUMNS, dtype="str"), refused


def _read_files(
    files: Sequence[NamedContent], manifest: pd.DataFrame, refused_images: pd.DataFrame, rejections: list[Rejection]
) -> list[_Prompt]:
    usable, refused = ImageNames(manifest["file_name"]), ImageNames(refused_images["name"])
    prompts: dict[str, _Prompt] = {}
    for source, content in files:
        if not isinstance(content, list):
            raise ValueError(f"{source} holds no list of prompts: write JSON Lines, or a JSON list of LLaVA rows.")
        for number, row in enumerate(content, start=1):
            name = _prompt_id(source, number, row)
            try:
                prompt = _read_row(name, row, f"row {number} of {source}")
                found = usable.find(prompt.image)
                if len(found) != 1:
                    raise _RefusedError(image_problem(found, refused.find(prompt.image), f"{prompt.image} in {source}"))
                if name in prompts:
                    raise _RefusedError(f"duplicate prompt id: row {number} of {source} repeats it")
                prompts[name] = replace(prompt, image=found[0])
            except _RefusedError as reason:
                rejections.append(Rejection("prompt", name, str(reason)))
    return list(prompts.values())


def _prompt_id(source: str, number: int, row: Any) -> str:
    given = (as_id(row.get("prompt_id")) or as_id(row.get("id"))) if isinstance(row, dict) else None
    return given or f"{PurePosixPath(source).stem}-{number}"


def _read_row(prompt_id: str, row: Any, where: str) -> _Prompt:
    if not isinstance(row, dict):
        raise _RefusedError(f"not an object: {where}")
    image = as_text(row.get("image"))
    if image is None:
        raise _RefusedError(f"prompt without one image: {where}")
    raw = _first_question(row["conversations"]) if "conversations" in row else row.get("prompt")
    text = _prompt_text(raw, where)
    split = row.get("split")
    if split is not None and split not in SPLITS:
        raise _RefusedError(f"unknown split: {split!r} in {where} is none of {', '.join(SPLITS)}")
    return _Prompt(prompt_id, image, text, split)


def _prompt_text(raw: Any, where: str) -> str:
    """Return the prompt without image tokens; the loader places the image itself."""
    # Again and again: taking one token out may join the halves of another.
    while isinstance(raw, str) and IMAGE_TOKEN in raw:
        raw = raw.replace(IMAGE_TOKEN, "")
    text = as_text(raw)
    if text is None:
        raise _RefusedError(f"empty prompt: no text in {where}")
    control = _CONTROL_TOKEN.search(text)
    if control:
        raise _RefusedError(f"control token in prompt: {control[0]!r} in {where}")
    return text


def _template_text(template: str) -> str:
    try:
        return _prompt_text(template, "image_ingestion.template_prompt")
    except _RefusedError as reason:
        raise ValueError(f"The template cannot be asked. {reason}") from None


def _first_question(turns: Any) -> Any:
    """Return the text of the first human turn of a LLaVA conversation, None where there is none."""
    turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    return next((turn.get("value") for turn in turns if turn.get("from") in _HUMAN), None)


def _deal(
    prompts: list[_Prompt], sha256: dict[str, str], params: ImageIngestionParams, rejections: list[Rejection]
) -> list[_Prompt]:
    """Give every prompt its split: the one its rows ask for, else the one of the image's content.

    Rows that ask for two splits of one image (or of byte-identical ones) are all refused: whichever were kept, the
    image might be seen in training and tested on.
    """
    asked: dict[str, set[str]] = defaultdict(set)
    for prompt in prompts:
        asked[sha256[prompt.image]] |= {prompt.split} - {None}
    dealt: list[_Prompt] = []
    for prompt in prompts:
        content = sha256[prompt.image]
        if len(asked[content]) > 1:
            reason = f"conflicting splits: rows ask for {' and '.join(sorted(asked[content]))} of {prompt.image}"
            rejections.append(Rejection("prompt", prompt.prompt_id, reason))
            continue
        split = next(iter(asked[content]), None) or assign_split(content, params.split_fractions, params.seed)
        dealt.append(replace(prompt, split=split))
    return dealt
