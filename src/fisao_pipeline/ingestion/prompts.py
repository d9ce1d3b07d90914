"""Prompts from JSON Lines, LLaVA-Instruct JSON or one template, joined to images and dealt into splits."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from fisao_pipeline.ingestion.annotations import MANIFEST_COLUMNS, NamedContent, image_problem
from fisao_pipeline.ingestion.copies import DealtImages, deal_images, quarantined_images
from fisao_pipeline.ingestion.names import ImageNames
from fisao_pipeline.ingestion.rejections import Rejection, as_id, as_text, rejections_table
from fisao_pipeline.ingestion.splits import allowed_splits, require_splits
from fisao_pipeline.params import SPLITS, ImageIngestionParams

logger = logging.getLogger(__name__)

PROMPT_COLUMNS = ["prompt_id", "image_id", "prompt", "split"]
IMAGE_TOKEN = "<image>"
# What a tokenizer would read as a control token, not as text: it would end the prompt, or ask for a second image.
_CONTROL_TOKEN = re.compile(r"</?s>|<(?:pad|unk|bos|eos|image|video)>|<\|[^<>]*\|>")
_HUMAN = frozenset({"human", "user"})


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One prompt on its way: ``split`` is what its row asks for, ``file`` the place of its file, ``image`` its row."""

    prompt_id: str
    image: int
    text: str
    split: str | None = None
    file: int = 0


class _RefusedError(ValueError):
    """A row that is not used; the message is the reason."""


def make_prompts(
    images: pd.DataFrame,
    files: Sequence[NamedContent] | None,
    refused_images: pd.DataFrame,
    params: ImageIngestionParams,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Build the prompts table, and take copies across splits out of the images.

    Args:
        images: Annotated images: ``MANIFEST_COLUMNS``, ``pixels`` and ``sources``.
        files: ``(name, parsed rows)`` of each prompts file, or None to apply the template to every image. Rows may be
            any collection.
        refused_images: Refused files (column ``name``), to tell a refused image from a missing one.
        params: Template, sources, split fractions and seed.

    Returns:
        The manifest (``MANIFEST_COLUMNS``, without quarantined images), the prompts (``PROMPT_COLUMNS``, in file
        order; those of the template last), the refused rows, and the quarantined images. No two prompts of different
        splits show the same picture.

    Raises:
        ValueError: A file is no list of rows, the template is no usable prompt, a required split is empty, or
            ``source_splits`` does not fit the images.
    """
    allowed = allowed_splits(images["file_name"], images["sources"], params.source_splits)
    rejections: list[Rejection] = []
    prompts = [] if files is None else _read_files(files, images["file_name"], refused_images, rejections)
    asked = _asked_splits(prompts, allowed)
    single = {row: next(iter(splits)) for row, splits in asked.items() if len(splits) == 1}
    dealt = deal_images(images, single, allowed, params)
    names = images["file_name"]
    used = [prompt for prompt in prompts if _is_usable(prompt, names, asked, dealt, rejections)]
    if files is not None and params.max_prompts_per_file is not None:
        used = _first_of_each_file(used, files, params.max_prompts_per_file)
    by_template = (None if files is None else params.template_splits) or ()
    if files is None or by_template:
        asked_about = {prompt.image for prompt in prompts}
        wanted = [
            row
            for row, split in enumerate(dealt.splits)
            if row not in dealt.kept_copies and (files is None or (split in by_template and row not in asked_about))
        ]
        used += _template_prompts(wanted, images["image_id"], params, used if files is not None else None)
    refused = rejections_table(rejections)
    if not used:
        raise ValueError(f"No usable prompt is left. The first refusals: {refused.head(3).to_dict('records')}")
    require_splits({dealt.splits[prompt.image] for prompt in used}, params)
    table = _table(used, images["image_id"], dealt.splits)
    del prompts, used  # Before the manifest, a second table of all images, is made.
    manifest = images[MANIFEST_COLUMNS].drop(index=list(dealt.kept_copies)).reset_index(drop=True)
    return manifest, table, refused, rejections_table(quarantined_images(images, dealt))


def _table(prompts: list[_Prompt], image_ids: pd.Series, splits: Sequence[str]) -> pd.DataFrame:
    ids = list(image_ids)
    columns = {
        "prompt_id": [prompt.prompt_id for prompt in prompts],
        "image_id": [ids[prompt.image] for prompt in prompts],
        "prompt": [prompt.text for prompt in prompts],
        "split": [splits[prompt.image] for prompt in prompts],
    }
    return pd.DataFrame(columns, columns=PROMPT_COLUMNS, dtype="str")


def _template_prompts(
    rows: Sequence[int], image_ids: pd.Series, params: ImageIngestionParams, others: Sequence[_Prompt] | None
) -> Iterator[_Prompt]:
    """Yield the template for each image; beside prompts of files its ids say so and avoid theirs."""
    text = _template_text(params.template_prompt)
    taken = {prompt.prompt_id for prompt in others or ()}
    ids = list(image_ids)
    for row in rows:
        prompt_id = ids[row] if others is None else f"template-{ids[row]}"
        while prompt_id in taken:
            prompt_id = f"template-{prompt_id}"
        taken.add(prompt_id)
        yield _Prompt(prompt_id, row, text)


def _first_of_each_file(prompts: list[_Prompt], files: Sequence[NamedContent], most: int) -> list[_Prompt]:
    counts = Counter(prompt.file for prompt in prompts)
    for file, count in sorted(counts.items()):
        if count > most:
            logger.info("%s: the first %d of %d usable prompts are used.", files[file][0], most, count)
    seen: Counter[int] = Counter()
    first = []
    for prompt in prompts:
        seen[prompt.file] += 1
        if seen[prompt.file] <= most:
            first.append(prompt)
    return first


def _read_files(
    files: Sequence[NamedContent], file_names: pd.Series, refused_images: pd.DataFrame, rejections: list[Rejection]
) -> list[_Prompt]:
    usable, refused = ImageNames(file_names), ImageNames(refused_images["name"])
    prompts: dict[str, _Prompt] = {}
    for file, (source, content) in enumerate(files):
        if not isinstance(content, Collection) or isinstance(content, Mapping | str):
            raise ValueError(f"{source} holds no list of prompts: write JSON Lines, or a JSON list of LLaVA rows.")
        for number, row in enumerate(content, start=1):
            name = _prompt_id(source, number, row)
            try:
                reference, text, split = _read_row(row, f"row {number} of {source}")
                found = usable.rows(reference)
                if len(found) != 1:
                    where = f"{reference} in {source}"
                    raise _RefusedError(image_problem(usable.find(reference), refused.find(reference), where))
                if name in prompts:
                    raise _RefusedError(f"duplicate prompt id: row {number} of {source} repeats it")
                prompts[name] = _Prompt(name, found[0], text, split, file)
            except _RefusedError as reason:
                rejections.append(Rejection("prompt", name, str(reason)))
    return list(prompts.values())


def _prompt_id(source: str, number: int, row: Any) -> str:
    given = (as_id(row.get("prompt_id")) or as_id(row.get("id"))) if isinstance(row, dict) else None
    return given or f"{PurePosixPath(source).stem}-{number}"


def _read_row(row: Any, where: str) -> tuple[str, str, str | None]:
    """Return image, text and wanted split of one row."""
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
    # The one string of that name, not the row's own: a million of them add up.
    return image, text, None if split is None else SPLITS[SPLITS.index(split)]


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


def _asked_splits(prompts: list[_Prompt], allowed: Sequence[tuple[str, ...] | None]) -> dict[int, set[str]]:
    """Return the splits that rows ask for by image, of those that its source allows."""
    asked: dict[int, set[str]] = defaultdict(set)
    for prompt in prompts:
        if prompt.split is not None and prompt.split in (allowed[prompt.image] or SPLITS):
            asked[prompt.image].add(prompt.split)
    return asked


def _is_usable(
    prompt: _Prompt,
    names: pd.Series,
    asked: Mapping[int, set[str]],
    dealt: DealtImages,
    rejections: list[Rejection],
) -> bool:
    """Whether a prompt can be asked in the split of its image; if not, say why.

    Rows that ask for two splits of one image are all refused: whichever were kept, the image might be seen in
    training and tested on.
    """
    reason = None
    if len(asked.get(prompt.image, ())) > 1:
        wanted = " and ".join(sorted(asked[prompt.image]))
        reason = f"conflicting splits: rows ask for {wanted} of {names[prompt.image]}"
    elif prompt.image in dealt.kept_copies:
        kept = dealt.kept_copies[prompt.image]
        reason = f"image was quarantined: {names[prompt.image]} is a copy of {names[kept]} in {dealt.splits[kept]}"
    elif prompt.split is not None and prompt.split != dealt.splits[prompt.image]:
        reason = (
            f"split of another source: the row asks for {prompt.split} of {names[prompt.image]}, which "
            f"image_ingestion.source_splits gives to {dealt.splits[prompt.image]}"
        )
    if reason is not None:
        rejections.append(Rejection("prompt", prompt.prompt_id, reason))
    return reason is None
