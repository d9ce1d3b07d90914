"""Any still picture a user may bring, decoded in full to 8-bit RGB, or refused with the reason."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Named one by one: left to itself Pillow also opens formats that run other programs (EPS starts Ghostscript).
_WANTED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Pillow itself refuses above twice its own limit; a larger number here could not be honoured.
MAX_PIXELS = 2 * 89_478_485
_FULL_SCALE_16_BIT = 65535
_DIGEST_BYTES = 16
_STRIP_PIXELS = 1 << 20


@cache
def readable_formats() -> tuple[str, ...]:
    """The wanted formats that this machine's Pillow was built with; asked late, for it imports all of Pillow's."""
    Image.init()
    return tuple(name for name in _WANTED_FORMATS if name in Image.OPEN)


class UnreadableImageError(ValueError):
    """A file that cannot be used as an image; ``reason`` reads ``class of problem: detail``."""

    def __init__(self, reason: str, file_name: str = "") -> None:
        super().__init__(f"{file_name}: {reason}" if file_name else reason)
        self.reason = reason


def decode_image(stream: BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode every pixel of a still image to RGB.

    EXIF orientation is applied, transparency is laid on white, 16-bit and float grey is scaled (not clipped) to 8 bits,
    CMYK and palettes are converted. The ``format`` attribute of the answer names the encoding found in the file.

    Args:
        stream: Seekable binary stream with the whole file.
        max_pixels: Width times height above which the file is refused before it is decoded.

    Raises:
        UnreadableImageError: Not an image, truncated, corrupt, more than one frame, or too many pixels.
    """
    try:
        image = _open_still(stream, max_pixels)
        oriented = _apply_orientation(image)
        rgb = _to_rgb(oriented)
    except (UnreadableImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        known = ", ".join(readable_formats())
        raise UnreadableImageError(f"not a readable image: the content is none of {known}") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"too many pixels: {error}") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, IndexError and others.
        raise UnreadableImageError(f"truncated or corrupt: {error}") from error
    rgb.format = image.format
    return rgb


def pixel_digest(image: Image.Image) -> str:
    """Return 32 hex digits of an RGB image's size and pixels.

    Files whose bytes differ but not their picture (metadata taken out, a PNG saved of a BMP) agree in it; a picture
    that was compressed anew does not.
    """
    digest = hashlib.blake2b(f"{image.mode} {image.width} {image.height}".encode(), digest_size=_DIGEST_BYTES)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):  # In strips: bytes of a whole large picture would be a copy of it.
        digest.update(image.crop((0, top, image.width, min(top + rows, image.height))).tobytes())
    return digest.hexdigest()


def _open_still(stream: BinaryIO, max_pixels: int) -> Image.Image:
    image = Image.open(stream, formats=readable_formats())
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableImageError(f"too many pixels: {width} x {height} is more than {max_pixels}")
    # A phone's MPO is a JPEG with a second view behind it: its first frame is the photo.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise UnreadableImageError(f"more than one frame: {image.format} with {image.n_frames} frames or pages")
    image.load()
    return image


def _apply_orientation(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Broken EXIF says nothing about the pixels: take the picture as it is stored.
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _grey_to_8_bit(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _grey_to_8_bit(image: Image.Image) -> Image.Image:
    """Scale grey of more than 8 bits; outside the usual ranges [0, 1] and [0, 65535] by the image's own range."""
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise UnreadableImageError("non-finite pixels: a float image holds NaN or infinity")
    usual = 1.0 if image.mode == "F" else float(_FULL_SCALE_16_BIT)
    if low >= 0 and high <= usual:
        low, high = 0.0, usual
    span = high - low or 1.0
    return Image.fromarray(np.rint((values - low) / span * 255).astype(np.uint8))
