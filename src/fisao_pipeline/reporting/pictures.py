"""Pictures within a page: downscaled, without metadata, and no heavier together than the page may be."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

from PIL import Image

# Steps to make pictures lighter: share of the asked longest side, and WebP quality.
STEPS = ((1.0, 80), (1.0, 60), (0.75, 60), (0.5, 50), (0.35, 40), (0.2, 30))


def data_uris(
    image_ids: Sequence[str], open_image: Callable[[str], Image.Image], max_pixels: int, max_bytes: int
) -> dict[str, str]:
    """Every picture as an address with its content, all of the same quality: the best one that fits.

    Args:
        image_ids: Which, as often as each is shown.
        open_image: From an id to its picture.
        max_pixels: Longest side.
        max_bytes: Of all addresses together, a picture that is shown twice counted twice. If even the last of `STEPS`
            is heavier, that one is taken.
    """
    shown = {image_id: image_ids.count(image_id) for image_id in image_ids}
    small = {image_id: _small(open_image(image_id), max_pixels) for image_id in shown}
    uris: dict[str, str] = {}
    for share, quality in STEPS:
        uris = {image_id: data_uri(image, round(max_pixels * share), quality) for image_id, image in small.items()}
        if sum(len(uris[image_id]) * times for image_id, times in shown.items()) <= max_bytes:
            break
    return uris


def data_uri(image: Image.Image, max_pixels: int, quality: int) -> str:
    """A picture as WebP within an address, no side longer than ``max_pixels``, without any metadata."""
    encoded = io.BytesIO()
    _small(image, max_pixels).save(encoded, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"


def _small(image: Image.Image, max_pixels: int) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((max(max_pixels, 1), max(max_pixels, 1)))
    small.info = {}
    return small
