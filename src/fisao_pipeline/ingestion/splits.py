"""The split of an image follows from its source and its content, so no run, order or duplicate can move it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from fisao_pipeline.params.base import SPLITS
from fisao_pipeline.params.image_ingestion import ImageIngestionParams
from fisao_pipeline.seeded_choice import seeded_hash

logger = logging.getLogger(__name__)


def assign_split(sha256: str, fractions: Mapping[str, float], seed: int, allowed: Sequence[str] | None = None) -> str:
    """Return the split of an image from a seeded hash of its content.

    The hash is a number u in [0, 1); the split is the interval of the summed fractions, in the order of ``SPLITS``,
    that u falls into. Adding images moves no other image, and byte-identical images agree.

    Args:
        sha256: Hex digest of the file's bytes.
        fractions: Share of each split; they sum to 1, a missing one is 0.
        seed: Another seed deals the images anew.
        allowed: The splits to choose from, their fractions scaled to sum to 1; None for all.
    """
    if allowed is not None:
        if len(allowed) == 1:
            return allowed[0]
        total = sum(fractions.get(split, 0.0) for split in allowed)
        fractions = {split: fractions.get(split, 0.0) / total for split in allowed}
    u = seeded_hash(sha256, seed) / 2**64
    upper = 0.0
    for split in SPLITS:
        upper += fractions.get(split, 0.0)
        if u < upper:
            return split
    # The sum of the fractions may round to just below 1.
    return next(split for split in reversed(SPLITS) if fractions.get(split, 0.0) > 0)


def require_splits(present: Iterable[str], params: ImageIngestionParams) -> None:
    """Check that no split that later stages need is empty.

    Raises:
        ValueError: A required split has no prompts.
    """
    missing = [split for split in SPLITS if split not in set(present)]
    for split in missing:
        problem = (
            f"No prompt falls into the split {split!r}: raise `image_ingestion.split_fractions.{split}` "
            f"(now {params.split_fractions.get(split, 0.0):g}), add images, or name the split in the prompts file."
        )
        if split in params.required_splits:
            raise ValueError(problem)
        logger.warning(problem)


def allowed_splits(
    file_names: Iterable[str], sources: Iterable[tuple[str, ...] | None], source_splits: Mapping[str, Sequence[str]]
) -> list[tuple[str, ...] | None]:
    """Return for each image the splits that its folder and annotation files allow, None for all.

    Args:
        file_names: Relative POSIX paths.
        sources: The names of the annotation files that list each image, or None.
        source_splits: ``image_ingestion.source_splits``: splits by folder or by name of an annotation file. An image
            that several keys mean may go where all of them allow.

    Raises:
        ValueError: A key means no image, or the keys of an image have no split in common.
    """
    images = list(zip(file_names, sources, strict=True)) if source_splits else []
    wanted = {key.strip("/"): key for key in source_splits}
    used: set[str] = set()

    @cache
    def of(folder: str, listed_in: tuple[str, ...]) -> tuple[str, ...] | None:
        keys = [key for key in wanted if key in listed_in or f"{folder}/".startswith(f"{key}/")]
        used.update(keys)
        return _in_common(keys, {key: source_splits[wanted[key]] for key in keys}) if keys else None

    allowed = [of(name.rpartition("/")[0], listed_in or ()) for name, listed_in in images]
    if unknown := [wanted[key] for key in wanted if key not in used]:
        folders = {name.rpartition("/")[0] for name, _ in images} - {""}
        files = {source for _, listed_in in images for source in listed_in or ()}
        raise ValueError(
            f"image_ingestion.source_splits: {', '.join(map(repr, unknown))} is neither a folder with usable images in "
            f"`image_folder` nor a file of `raw_annotations` that lists some. Folders: {_some(folders)}; "
            f"files: {_some(files)}."
        )
    return allowed if source_splits else [None for _ in file_names]


def _in_common(keys: Sequence[str], splits: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    common = tuple(split for split in SPLITS if all(split in splits[key] for key in keys))
    if not common:
        raise ValueError(
            f"image_ingestion.source_splits: {' and '.join(map(repr, keys))} mean the same images and name no split in "
            "common. Take one of them out, or name the same splits."
        )
    return common


def _some(names: set[str], most: int = 10) -> str:
    return ", ".join(sorted(names)[:most]) + (", …" if len(names) > most else "") if names else "none"
