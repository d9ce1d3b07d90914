"""Scan an image folder and decode every file, in threads, before anything expensive depends on it."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

import pandas as pd
from PIL import Image
from tqdm import tqdm

from fisao_pipeline.ingestion.rejections import Rejection, rejections_table, summarise
from fisao_pipeline.params import ImageIngestionParams

logger = logging.getLogger(__name__)

IMAGE_COLUMNS = ["file_name", "width", "height", "sha256"]


class Check(Protocol):
    """What decoding one file found; ``reason`` is None when the image can be used."""

    width: int
    height: int
    sha256: str
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
        Usable images (``IMAGE_COLUMNS``, sizes in pixels, sorted by file name) and refused ones with the reason.

    Raises:
        ValueError: The folder holds no candidate file, or too large a share of it was refused.
    """
    names = folder.files()
    if not names:
        raise ValueError(
            f"Image folder {folder.root} holds no files that could be images. For the pocket world, run "
            "`kedro run --pipelines=pocket_world --tags=scenes` with the same --env; for images of your own, set "
            "`image_folder.filepath` in conf/<env>/catalog.yml to the folder that holds them."
        )
    checks, reasons = _check_all(folder, names, params)
    usable = [
        (name, check.width, check.height, check.sha256)
        for name, check, reason in zip(names, checks, reasons, strict=True)
        if reason is None
    ]
    refused = rejections_table(
        Rejection("image", name, reason) for name, reason in zip(names, reasons, strict=True) if reason is not None
    )
    _check_share(folder.root, len(names), refused, params.max_rejected_share)
    _log_mislabelled(names, checks)
    return pd.DataFrame(usable, columns=IMAGE_COLUMNS), refused


def _check_all(folder: Folder, names: list[str], params: ImageIngestionParams) -> tuple[list[Check], list[str | None]]:
    checks: list[Check] = []
    reasons: list[str | None] = []
    rejected = 0
    pool = ThreadPoolExecutor(params.workers)
    try:
        with tqdm(total=len(names), desc="checking images", unit="img", disable=None) as bar:
            found = pool.map(partial(folder.check, max_pixels=params.max_pixels), names)
            for name, check in zip(names, found, strict=True):
                checks.append(check)
                reasons.append(_refusal(name, check, params))
                rejected += reasons[-1] is not None
                bar.set_postfix(rejected=rejected, refresh=False)
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)  # Otherwise Ctrl-C waits until every remaining file is decoded.
    return checks, reasons


def _refusal(name: str, check: Check, params: ImageIngestionParams) -> str | None:
    if check.reason is not None:
        return check.reason
    if _has_surrogates(name):
        return "file name is not UTF-8: rename the file"
    if min(check.width, check.height) < params.min_side_pixels:
        return f"too small: {check.width} x {check.height}, the shorter side must be {params.min_side_pixels} or more"
    return None


def _has_surrogates(name: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in name)


def _log_mislabelled(names: list[str], checks: list[Check]) -> None:
    pairs = zip(names, (check.encoding for check in checks), strict=True)
    odd = [f"{name} is {encoding}" for name, encoding in pairs if _is_mislabelled(name, encoding)]
    if odd:
        logger.info("%d images have another format than their extension says: %s.", len(odd), ", ".join(odd[:3]))


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
