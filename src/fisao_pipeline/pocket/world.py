"""What a user would bring, rendered: a folder of pictures, COCO annotations with captions, and prompts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from PIL import Image

from fisao_pipeline.pocket.language import CAPTION_PROMPTS, describe
from fisao_pipeline.pocket.scenes import CANVAS_PIXELS, CATEGORIES, Scene, render_scene

# The same places in COCO's own list would be 2, 3, …; the pocket world numbers its categories from 1.
CATEGORY_IDS = {name: number for number, name in enumerate(CATEGORIES, start=1)}


def picture_name(number: int) -> str:
    """File name of the n-th picture; every fourth is a PNG."""
    return f"scene_{number:05d}.{'png' if number % 4 == 0 else 'jpg'}"


def pictures(scenes: list[Scene]) -> Iterator[tuple[str, Image.Image]]:
    """File names and pictures, rendered one by one."""
    for number, scene in enumerate(scenes):
        yield picture_name(number), render_scene(scene)


def coco_annotations(scenes: list[Scene], seed: int) -> dict[str, Any]:
    """Instances in COCO's format, and two true captions a picture under ``captions``."""
    rng = random.Random(seed)
    images, annotations, captions = [], [], []
    for number, scene in enumerate(scenes):
        image = {"id": number, "file_name": picture_name(number), "width": CANVAS_PIXELS, "height": CANVAS_PIXELS}
        images.append(image)
        for placed in scene.objects:
            x0, y0, x1, y1 = placed.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CATEGORY_IDS[placed.category],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
        for _ in range(2):
            caption = describe(rng, scene, invent_share=0.0)
            captions.append({"id": len(captions) + 1, "image_id": number, "caption": caption})
    return {
        "info": {"description": "Rendered scenes of fisao-pipeline's pocket world"},
        "images": images,
        "annotations": annotations,
        "captions": captions,
        "categories": [{"id": number, "name": name} for name, number in CATEGORY_IDS.items()],
    }


def prompt_rows(scenes: list[Scene], seed: int) -> list[dict[str, str]]:
    """One prompt a picture, as rows of a prompts file."""
    rng = random.Random(seed)
    return [
        {"prompt_id": f"p{number:05d}", "image": picture_name(number), "prompt": rng.choice(CAPTION_PROMPTS)}
        for number in range(len(scenes))
    ]
