"""Pictures as Kedro-Viz shows them: one image, small, with what it is of above it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from fisao_pipeline.datasets.atomic import AtomicDataset
from fisao_pipeline.datasets.image_decoding import MAX_PIXELS, UnreadableImageError, decode_image

SIDE, COLUMNS, SHOWN = 150, 5, 10
_LINE, _MARGIN, _FONT_SIZE, _NAME = 18, 12, 13, 24
_LONGEST = 1200


def drawn(load: Callable[[], Image.Image], heading: Sequence[str]) -> str:
    """A picture below some lines of text, as a PNG in base64; the lines alone where there is no picture.

    Args:
        load: Opens the picture.
        heading: The lines.
    """
    try:
        image = load()
    except Exception:  # of whatever somebody's files hold
        image = Image.new("RGB", (1, 1), "white")
    image.thumbnail((_LONGEST, _LONGEST))
    font = ImageFont.load_default(_FONT_SIZE)
    top = 2 * _MARGIN + _LINE * len(heading)
    width = max(image.width, *(round(font.getlength(line)) for line in heading)) + 2 * _MARGIN
    sheet = Image.new("RGB", (width, top + image.height + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        pen.text((_MARGIN, _MARGIN + _LINE * number), line, "black", font)
    sheet.paste(image, (_MARGIN, top))
    encoded = io.BytesIO()
    sheet.quantize(256).save(encoded, "PNG", optimize=True)
    return base64.b64encode(encoded.getvalue()).decode("ascii")


def opened(dataset: AtomicDataset) -> Image.Image:
    """The image file that an entry would load, which kedro-datasets can only save."""
    with dataset.version_path(dataset.resolve_load_version()).open("rb") as stream:
        return decode_image(stream, MAX_PIXELS)


def contact_sheet(images: Any) -> Image.Image:
    """The first pictures of a folder, each with its name.

    Args:
        images: With `files()`, their names, and `open(name)`.
    """
    names = images.files()[:SHOWN]
    rows = -(-len(names) // COLUMNS) or 1
    sheet = Image.new("RGB", (COLUMNS * SIDE, rows * (SIDE + _NAME)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE - 2)
    for number, name in enumerate(names):
        left, top = number % COLUMNS * SIDE, number // COLUMNS * (SIDE + _NAME)
        try:
            picture = images.open(name).convert("RGB")
            picture.thumbnail((SIDE - 8, SIDE - 8))
            sheet.paste(picture, (left, top))
            below = picture.height
        except UnreadableImageError as error:
            pen.text((left, top), error.reason[:20], "black", font)
            below = _NAME
        pen.text((left, top + below + 4), name[-20:], "black", font)
    return sheet
