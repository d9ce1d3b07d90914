"""What nodes know of a picture by its id: how to open it, and its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from fisao_pipeline.datasets.image_folder import ImageFolder


def image_opener(image_folder: ImageFolder, image_manifest: pd.DataFrame) -> Callable[[str], Image.Image]:
    """A function from image id to RGB picture.

    Raises (the function):
        KeyError: If the id is not in the manifest.
    """
    names = dict(zip(image_manifest["image_id"], image_manifest["file_name"], strict=True))

    def open_image(image_id: str) -> Image.Image:
        return image_folder.open(names[image_id])

    return open_image


def image_sizes(image_manifest: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Width and height of each picture."""
    sizes = zip(image_manifest["width"], image_manifest["height"], strict=True)
    return dict(zip(image_manifest["image_id"], sizes, strict=True))
