"""What the pocket world hands over reads like what a user would bring."""

import json

from fisao_pipeline.pocket.language import CAPTION_PROMPTS
from fisao_pipeline.pocket.scenes import CANVAS_PIXELS, CATEGORIES, draw_scenes
from fisao_pipeline.pocket.world import coco_annotations, picture_name, pictures, prompt_rows

SCENES = draw_scenes(40, 6)


def test_annotations_are_cocos():
    coco = json.loads(json.dumps(coco_annotations(SCENES, 0)))
    assert {"info", "images", "annotations", "categories"} <= set(coco)
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert sorted(names.values()) == sorted(CATEGORIES)
    ids = [image["id"] for image in coco["images"]]
    assert len(set(ids)) == len(SCENES)
    numbers = [annotation["id"] for annotation in coco["annotations"]]
    assert len(set(numbers)) == len(numbers) == sum(len(scene.objects) for scene in SCENES)
    for annotation in coco["annotations"]:
        assert annotation["image_id"] in ids
        assert annotation["category_id"] in names
        x, y, width, height = annotation["bbox"]
        assert x >= 0 and y >= 0 and x + width <= CANVAS_PIXELS and y + height <= CANVAS_PIXELS
        assert annotation["area"] == width * height > 0
        assert annotation["iscrowd"] == 0


def test_annotations_are_what_the_scenes_show():
    coco = coco_annotations(SCENES, 0)
    names = {category["id"]: category["name"] for category in coco["categories"]}
    for number, scene in enumerate(SCENES):
        found = [names[a["category_id"]] for a in coco["annotations"] if a["image_id"] == number]
        assert {name: found.count(name) for name in found} == scene.counts
        assert sum(caption["image_id"] == number for caption in coco["captions"]) == 2


def test_files_annotations_and_prompts_speak_of_the_same_pictures():
    names = [name for name, _ in pictures(SCENES)]
    assert names == [image["file_name"] for image in coco_annotations(SCENES, 0)["images"]]
    assert names == [row["image"] for row in prompt_rows(SCENES, 0)]
    assert len(set(names)) == len(SCENES)
    assert {name.rsplit(".", 1)[1] for name in names} == {"jpg", "png"}


def test_prompts_are_rows_of_a_prompts_file():
    rows = prompt_rows(SCENES, 0)
    assert all(set(row) == {"prompt_id", "image", "prompt"} for row in rows)
    assert len({row["prompt_id"] for row in rows}) == len(rows)
    assert {row["prompt"] for row in rows} == set(CAPTION_PROMPTS)
    assert rows == prompt_rows(SCENES, 0)
    assert rows != prompt_rows(SCENES, 1)


def test_pictures_come_one_by_one():
    """3,000 of them are not held in memory."""
    stream = pictures(SCENES)
    name, image = next(stream)
    assert name == picture_name(0) == "scene_00000.png"
    assert image.size == (CANVAS_PIXELS, CANVAS_PIXELS)
