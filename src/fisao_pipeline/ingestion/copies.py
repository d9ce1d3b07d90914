"""The split of every image, and no picture in two: of exact copies across splits only one split keeps its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from fisao_pipeline.ingestion.rejections import Rejection
from fisao_pipeline.ingestion.splits import assign_split
from fisao_pipeline.params.image_ingestion import ImageIngestionParams

# A picture that results are measured on is worth more than one of many to learn from.
KEPT_FIRST = ("held_out", "probe", "calibration", "training")


class DealtImages(NamedTuple):
    """The split of each image by its row, and for each quarantined row the row of the copy that is kept."""

    splits: list[str]
    kept_copies: dict[int, int]


def deal_images(
    images: pd.DataFrame,
    asked: Mapping[int, str],
    allowed: Sequence[tuple[str, ...] | None],
    params: ImageIngestionParams,
) -> DealtImages:
    """Give every image a split and quarantine copies that would carry a picture into a second one.

    An image's split is the one its prompts ask for; else the only one its source allows; else the one that a copy has
    by these rules, where its source allows that; else the one its bytes are dealt (:func:`assign_split`). Of copies
    in different splits those in the first of ``KEPT_FIRST`` stay. Copies within one split all stay.

    Args:
        images: ``sha256`` of the file's bytes and ``pixels``, the digest of the decoded picture: equal for copies.
        asked: The split that prompts ask for, by row; each allowed by the image's source.
        allowed: The splits that an image's source allows, None for all.
        params: Split fractions and seed.
    """
    claims = [asked.get(row) or (only[0] if only and len(only) == 1 else None) for row, only in enumerate(allowed)]
    groups = _copies(images["pixels"])
    for rows in groups:
        claim = min((claims[row] for row in rows if claims[row]), key=KEPT_FIRST.index, default=None)
        for row in rows:
            if claims[row] is None and claim in (allowed[row] or KEPT_FIRST):
                claims[row] = claim
    splits = [
        claim or assign_split(sha256, params.split_fractions, params.seed, only)
        for claim, sha256, only in zip(claims, images["sha256"], allowed, strict=True)
    ]
    kept_copies: dict[int, int] = {}
    for rows in groups:
        kept = min(rows, key=lambda row: KEPT_FIRST.index(splits[row]))
        kept_copies |= {row: kept for row in rows if splits[row] != splits[kept]}
    return DealtImages(splits, kept_copies)


def quarantined_images(images: pd.DataFrame, dealt: DealtImages) -> list[Rejection]:
    """Return the refusals of quarantined images, each with the copy that is kept and its id."""
    names, ids = images["file_name"], images["image_id"]
    return [
        Rejection(
            "image",
            names[row],
            f"copy across splits: quarantined from {dealt.splits[row]}, the same picture is {names[kept]} "
            f"(image_id {ids[kept]}) in {dealt.splits[kept]}",
        )
        for row, kept in dealt.kept_copies.items()
    ]


def _copies(pixels: pd.Series) -> list[list[int]]:
    """Return the rows of each picture that stands more than once, in the order of the images."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row in pixels.duplicated(keep=False).to_numpy().nonzero()[0].tolist():
        groups[pixels[row]].append(row)
    return list(groups.values())
