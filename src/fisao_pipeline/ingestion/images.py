"""Scan an image folder and decode every file, in threads, before anything expensive depends on it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

import pandas as pd
from PIL import Image
from tqdm import tqdm

from fisao_pipeline.ingestion.growing import GrowingTable
from fisao_pipeline.ingestion.rejections import Rejection, rejections_table, summarise
from fisao_pipeline.params.base import MAX_ASPECT_RATIO
from fisao_pipeline.params.image_ingestion import ImageIngestionParams
from fisao_pipeline.suggestions import how_to_bring

logger = logging.getLogger(__name__)

IMAGE_COLUMNS = ["file_name", "width", "height", "sha256", "pixels"]
# Files that one thread takes at a time, and how many such parts wait for it: a future of each of a million files
# would take more memory than the tables.
_BATCH_FILES = 16
_BATCHES_AHEAD = 8


class Check(Protocol):
    """What decoding one file found; ``reason`` is None when the image can be used."""

    width: int
    height: int
    sha256: str
    pixels: str
    encoding: str
    reason: str | None


class Folder(Protocol):
    """The part of an image folder that the scan needs."""

    root: Path

    def files(self) -> list[str]:
        """Return the sorted names of all candidate files."""
        ...

    def check(self, file_name: str, max_pixels: int) -> Check:
        """Decode one file in full."""
        ...


def check_images(folder: Folder, params: ImageIngestionParams) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode every candidate file and sort it into usable or refused.

    Args:
        folder: The images.
        params: Limits, number of threads, and the share of refused files that is still tolerated.

    Returns:
        Usable images (``IMAGE_COLUMNS``, sizes in pixels, sorted by file name; ``sha256`` is of the file's bytes,
        ``pixels`` a digest of the decoded picture) and refused ones with the reason.

    Raises:
        ValueError: The folder holds no candidate file, or too large a share of it was refused.
    """
    names = folder.files()
    if not names:
        raise ValueError(
            f"Image folder {folder.root} holds no files that could be images. "
            + how_to_bring(folder.root, "`image_folder.filepath`")
        )
    usable = GrowingTable(IMAGE_COLUMNS)
    rejections: list[Rejection] = []
    mislabelled: list[str] = []
    with tqdm(total=len(names), desc="checking images", unit="img", disable=None) as bar:
        for name, check in _checks(folder, names, params):
            reason = _refusal(name, check, params)
            if reason is None:
                usable.add(name, check.width, check.height, check.sha256, check.pixels)
            else:
                rejections.append(Rejection("image", name, reason))
            if _is_mislabelled(name, check.encoding):
                mislabelled.append(f"{name} is {check.encoding}")
            bar.set_postfix(rejected=len(rejections), refresh=False)
            bar.update()
    refused = rejections_table(rejections)
    _check_share(folder.root, len(names), refused, params.max_rejected_share)
    if mislabelled:
        first = ", ".join(mislabelled[:3])
        logger.info("%d images have another format than their extension says: %s.", len(mislabelled), first)
    return usable.table(), refused


def _checks(folder: Folder, names: list[str], params: ImageIngestionParams) -> Iterator[tuple[str, Check]]:
    """Yield every name with its check, in order, decoded a little ahead by the threads."""
    pool = ThreadPoolExecutor(params.workers)
    waiting: deque[tuple[list[str], Future[list[Check]]]] = deque()
    check_batch = partial(_check_batch, folder, params.max_pixels)
    try:
        for start in range(0, len(names), _BATCH_FILES):
            batch = names[start : start + _BATCH_FILES]
            waiting.append((batch, pool.submit(check_batch, batch)))
            if len(waiting) > _BATCHES_AHEAD * params.workers:
                yield from _finished(*waiting.popleft())
        while waiting:
            yield from _finished(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)  # Otherwise Ctrl-C waits until all that was begun is decoded.


def _check_batch(folder: Folder, max_pixels: int, names: list[str]) -> list[Check]:
    return [folder.check(name, max_pixels=max_pixels) for name in names]


def _finished(names: list[str], checks: Future[list[Check]]) -> Iterator[tuple[str, Check]]:
    return zip(names, checks.result(), strict=True)


def _refusal(name: str, check: Check, params: ImageIngestionParams) -> str | None:
    if check.reason is not None:
        return check.reason
    if _has_surrogates(name):
        return "file name is not UTF-8: rename the file"
    if min(check.width, check.height) < params.min_side_pixels:
        return f"too small: {check.width} x {check.height}, the shorter side must be {params.min_side_pixels} or more"
    if max(check.width, check.height) > MAX_ASPECT_RATIO * min(check.width, check.height):
        return (
            f"too narrow: {check.width} x {check.height}, the longer side may be {MAX_ASPECT_RATIO} times the shorter "
            "one at most"
        )
    return None


def _has_surrogates(name: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in name)


def _is_mislabelled(name: str, encoding: str) -> bool:
    expected = Image.registered_extensions().get(PurePosixPath(name).suffix.lower())
    # An MPO is what many phones write into a .jpg.
    return bool(encoding) and expected is not None and expected != encoding.replace("MPO", "JPEG")


def _check_share(root: Path, total: int, refused: pd.DataFrame, tolerated: float) -> None:
    if len(refused) == total or len(refused) > tolerated * total:
        raise ValueError(
            f"{len(refused)} of {total} files in {root} cannot be used: {summarise(refused)}. Repair or remove them, "
            f"or raise `image_ingestion.max_rejected_share` (now {tolerated:g}) when some of them are usable."
        )
