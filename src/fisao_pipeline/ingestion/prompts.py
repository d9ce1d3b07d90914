"""Prompts from JSON Lines, LLaVA-Instruct JSON or one template, joined to images and dealt into splits."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from fisao_pipeline.ingestion.annotations import MANIFEST_COLUMNS, NamedContent, image_problem
from fisao_pipeline.ingestion.copies import DealtImages, deal_images, quarantined_images
from fisao_pipeline.ingestion.growing import GrowingTable
from fisao_pipeline.ingestion.names import ImageNames
from fisao_pipeline.ingestion.rejections import Rejection, as_id, as_text, rejections_table
from fisao_pipeline.ingestion.splits import allowed_splits, require_splits
from fisao_pipeline.params.base import SPLITS
from fisao_pipeline.params.image_ingestion import ImageIngestionParams

logger = logging.getLogger(__name__)

PROMPT_COLUMNS = ["prompt_id", "image_id", "prompt", "split"]
IMAGE_TOKEN = "<image>"
# What a tokenizer would read as a control token, not as text: it would end the prompt, or ask for a second image.
_CONTROL_TOKEN = re.compile(r"</?s>|<(?:pad|unk|bos|eos|image|video)>|<\|[^<>]*\|>")
_TEMPLATE_PREFIX = "template-"
_HUMAN = frozenset({"human", "user"})
# A prompt on its way: `image` is the row of its image, `asked` the split that its row asks for or nothing, `file` and
# `number` say where it stands.
_ON_THE_WAY = ["prompt_id", "image", "prompt", "asked", "file", "number"]


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
    prompts = _read_files(files or (), images["file_name"], refused_images, rejections)
    asked = _asked_splits(prompts, allowed)
    single = {row: next(iter(splits)) for row, splits in asked.items() if len(splits) == 1}
    dealt = deal_images(images, single, allowed, params)
    unasked = ~images.index.isin(prompts["image"])
    used = prompts[_usable(prompts, images["file_name"], asked, dealt, rejections)]
    del prompts  # A copy of it but for what was refused.
    if files is not None and params.max_prompts_per_file is not None:
        used = _first_of_each_file(used, files, params.max_prompts_per_file)
    if files is None:
        used = _template_prompts([row for row in range(len(images)) if row not in dealt.kept_copies], images, params)
    elif params.template_splits:
        wanted = [
            row
            for row, split in enumerate(dealt.splits)
            if unasked[row] and split in params.template_splits and row not in dealt.kept_copies
        ]
        used = pd.concat([used, _template_prompts(wanted, images, params, beside=used["prompt_id"])])
    refused = rejections_table(rejections)
    if not len(used):
        raise ValueError(f"No usable prompt is left. The first refusals: {refused.head(3).to_dict('records')}")
    table = _table(used, images["image_id"], dealt.splits)
    require_splits(table["split"].unique(), params)
    del used  # Before the manifest, a second table of all images, is made.
    manifest = images[MANIFEST_COLUMNS].drop(index=list(dealt.kept_copies)).reset_index(drop=True)
    return manifest, table, refused, rejections_table(quarantined_images(images, dealt))


def _table(prompts: pd.DataFrame, image_ids: pd.Series, splits: Sequence[str]) -> pd.DataFrame:
    rows = prompts["image"].to_numpy(dtype="int64")
    columns = {
        "prompt_id": prompts["prompt_id"].array,
        "image_id": image_ids.array.take(rows),
        "prompt": prompts["prompt"].array,
        "split": pd.Series(splits, dtype="str").array.take(rows),
    }
    return pd.DataFrame(columns, columns=PROMPT_COLUMNS, dtype="str")


def _template_prompts(
    rows: Sequence[int], images: pd.DataFrame, params: ImageIngestionParams, beside: pd.Series | None = None
) -> pd.DataFrame:
    """Return the template for each image; beside prompts of files its ids say so and avoid theirs."""
    ids = list(images["image_id"].array.take(rows))
    if beside is not None:
        ids = _free_ids(ids, set(beside[beside.str.startswith(_TEMPLATE_PREFIX)]))
    return pd.DataFrame({"prompt_id": ids, "image": rows, "prompt": _template_text(params.template_prompt)})


def _free_ids(image_ids: Sequence[str], taken: set[str]) -> list[str]:
    ids = []
    for image_id in image_ids:
        prompt_id = f"{_TEMPLATE_PREFIX}{image_id}"
        while prompt_id in taken:
            prompt_id = f"{_TEMPLATE_PREFIX}{prompt_id}"
        taken.add(prompt_id)
        ids.append(prompt_id)
    return ids


def _first_of_each_file(prompts: pd.DataFrame, files: Sequence[NamedContent], most: int) -> pd.DataFrame:
    for file, count in prompts["file"].value_counts(sort=False).sort_index().items():
        if count > most:
            logger.info("%s: the first %d of %d usable prompts are used.", files[file][0], most, count)
    return prompts[prompts.groupby("file").cumcount() < most]


def _read_files(
    files: Sequence[NamedContent], file_names: pd.Series, refused_images: pd.DataFrame, rejections: list[Rejection]
) -> pd.DataFrame:
    usable, refused = ImageNames(file_names), ImageNames(refused_images["name"])
    prompts = GrowingTable(_ON_THE_WAY)
    for file, (source, content) in enumerate(files):
        if not isinstance(content, Collection) or isinstance(content, Mapping | str):
            raise ValueError(f"{source} holds no list of prompts: write JSON Lines, or a JSON list of LLaVA rows.")
        for number, row in enumerate(content, start=1):
            name = _prompt_id(source, number, row)
            try:
                reference, text, asked = _read_row(row, f"row {number} of {source}")
                found = usable.rows(reference)
                if len(found) != 1:
                    where = f"{reference} in {source}"
                    raise _RefusedError(image_problem(usable.find(reference), refused.find(reference), where))
                prompts.add(name, found[0], text, asked or "", file, number)
            except _RefusedError as reason:
                rejections.append(Rejection("prompt", name, str(reason)))
    return _without_repeated(prompts.table(), files, rejections)


def _without_repeated(
    prompts: pd.DataFrame, files: Sequence[NamedContent], rejections: list[Rejection]
) -> pd.DataFrame:
    repeated = prompts["prompt_id"].duplicated()
    for name, file, number in prompts.loc[repeated, ["prompt_id", "file", "number"]].itertuples(index=False):
        reason = f"duplicate prompt id: row {number} of {files[file][0]} repeats it"
        rejections.append(Rejection("prompt", name, reason))
    return prompts[~repeated] if repeated.any() else prompts


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
    return image, text, split


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


def _asked_splits(prompts: pd.DataFrame, allowed: Sequence[tuple[str, ...] | None]) -> dict[int, set[str]]:
    """Return the splits that rows ask for by image, of those that its source allows."""
    asked: dict[int, set[str]] = defaultdict(set)
    asking = prompts[prompts["asked"] != ""]
    for image, split in zip(asking["image"], asking["asked"], strict=True):
        if split in (allowed[image] or SPLITS):
            asked[image].add(split)
    return asked


def _usable(
    prompts: pd.DataFrame,
    names: pd.Series,
    asked: Mapping[int, set[str]],
    dealt: DealtImages,
    rejections: list[Rejection],
) -> list[bool]:
    """Whether each prompt can be asked in the split of its image; of those that cannot, say why."""
    usable = []
    for name, image, split in zip(prompts["prompt_id"], prompts["image"], prompts["asked"], strict=True):
        reason = _fault(image, split, names, asked, dealt)
        usable.append(reason is None)
        if reason is not None:
            rejections.append(Rejection("prompt", name, reason))
    return usable


def _fault(image: int, split: str, names: pd.Series, asked: Mapping[int, set[str]], dealt: DealtImages) -> str | None:
    """Why a prompt cannot be asked, or None.

    Rows that ask for two splits of one image are all refused: whichever were kept, the image might be seen in
    training and tested on.
    """
    if len(asked.get(image, ())) > 1:
        return f"conflicting splits: rows ask for {' and '.join(sorted(asked[image]))} of {names[image]}"
    if image in dealt.kept_copies:
        kept = dealt.kept_copies[image]
        return f"image was quarantined: {names[image]} is a copy of {names[kept]} in {dealt.splits[kept]}"
    if split and split != dealt.splits[image]:
        return (
            f"split of another source: the row asks for {split} of {names[image]}, which "
            f"image_ingestion.source_splits gives to {dealt.splits[image]}"
        )
    return None
