"""Rendered scenes: the same seed the same pixels, every category to be told from every other."""

import random
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from fisao_pipeline.method.object_spans import ObjectVocabulary
from fisao_pipeline.pocket.scenes import (
    CANVAS_PIXELS,
    CATEGORIES,
    GLYPHS,
    SCENE_KINDS,
    PlacedObject,
    Scene,
    draw_scenes,
    render_scene,
    sample_scene,
)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float)


def alone(category: str, kind: str = "park", seed: int = 0) -> np.ndarray:
    """One object in the middle of a scene."""
    return pixels(render_scene(Scene(kind, (PlacedObject(category, (33, 33, 64, 64)),), seed)))


def test_the_same_seed_gives_the_same_scenes_and_pixels():
    assert draw_scenes(20, 3) == draw_scenes(20, 3)
    assert draw_scenes(20, 3)[:5] == draw_scenes(5, 3), "more scenes do not change the first ones"
    for scene in draw_scenes(5, 3):
        assert np.array_equal(pixels(render_scene(scene)), pixels(render_scene(scene)))


def test_another_seed_gives_other_scenes():
    assert draw_scenes(20, 3) != draw_scenes(20, 4)


def test_rendering_leaves_the_global_random_state_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    render_scene(draw_scenes(1, 0)[0])
    assert random.random() == expected


def test_a_picture_is_an_rgb_square():
    image = render_scene(draw_scenes(1, 0)[0])
    assert image.size == (CANVAS_PIXELS, CANVAS_PIXELS)
    assert image.mode == "RGB"


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_shows_against_every_backdrop(category):
    for kind in SCENE_KINDS:
        empty = pixels(render_scene(Scene(kind, (), 0)))
        difference = np.abs(alone(category, kind) - empty).max(axis=2)
        shown = difference > 40
        assert shown.sum() > 60, f"{category} can hardly be seen {SCENE_KINDS[kind].phrase}"
        rows, columns = shown.nonzero()
        assert rows.min() >= 30 and rows.max() <= 67 and columns.min() >= 30 and columns.max() <= 67


def test_no_two_categories_look_alike():
    pictures = {category: alone(category) for category in CATEGORIES}
    for one, other in combinations(CATEGORIES, 2):
        different = (np.abs(pictures[one] - pictures[other]).max(axis=2) > 40).sum()
        assert different > 120, f"{one} and {other} differ in {different} of 1024 pixels"


def test_categories_are_cocos():
    vocabulary = ObjectVocabulary.load("coco")
    assert len(CATEGORIES) == 30
    assert all(vocabulary.canonical(category) == category for category in CATEGORIES)
    assert set(CATEGORIES) == set(GLYPHS)


def test_habits_are_categories_and_every_category_is_somewhere_at_home():
    for kind in SCENE_KINDS.values():
        assert len(set(kind.habits)) == 6
        assert set(kind.habits) <= set(CATEGORIES)
    assert {habit for kind in SCENE_KINDS.values() for habit in kind.habits} == set(CATEGORIES)


def test_objects_lie_on_the_canvas_and_apart():
    for scene in draw_scenes(200, 1):
        assert 1 <= len(scene.counts) <= 4
        assert max(scene.counts.values()) <= 2
        for placed in scene.objects:
            x0, y0, x1, y1 = placed.box
            assert 0 <= x0 < x1 <= CANVAS_PIXELS and 0 <= y0 < y1 <= CANVAS_PIXELS
        for one, other in combinations([p.box for p in scene.objects], 2):
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_absent_habits_are_habitual_and_absent():
    for scene in draw_scenes(100, 2):
        assert set(scene.absent_habits) == set(SCENE_KINDS[scene.kind].habits) - set(scene.counts)


def test_most_objects_are_habitual():
    rng = random.Random(0)
    scenes = [sample_scene(rng, habit_share=0.85) for _ in range(500)]
    named = [(scene, category) for scene in scenes for category in scene.counts]
    share = sum(category in SCENE_KINDS[scene.kind].habits for scene, category in named) / len(named)
    assert 0.75 < share < 0.9
