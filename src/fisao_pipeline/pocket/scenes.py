"""Rendered scenes: thirty COCO categories, eight kinds of scene, each with six objects that habitually occur in it."""

from __future__ import annotations

import colorsys
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

CANVAS_PIXELS = 96
GRID = 3
CELL_PIXELS = CANVAS_PIXELS // GRID

# Each glyph is a list of primitives in the unit square (x to the right, y down): kind, coordinates, colour.
# Kinds: rect and oval (x0, y0, x1, y1), poly (x, y pairs), line (x0, y0, x1, y1; a tenth of the square thick).
Primitive = tuple[str, tuple[float, ...], str]
GLYPHS: dict[str, list[Primitive]] = {
    "bicycle": [
        ("ring", (0.0, 0.45, 0.42, 0.87), "#101010"),
        ("ring", (0.58, 0.45, 1.0, 0.87), "#101010"),
        ("line", (0.2, 0.66, 0.45, 0.3), "#d81bd8"),
        ("line", (0.45, 0.3, 0.8, 0.66), "#d81bd8"),
        ("line", (0.2, 0.66, 0.8, 0.66), "#d81bd8"),
    ],
    "car": [
        ("rect", (0.0, 0.45, 1.0, 0.78), "#d01818"),
        ("poly", (0.2, 0.45, 0.32, 0.2, 0.72, 0.2, 0.85, 0.45), "#90d0f8"),
        ("oval", (0.1, 0.66, 0.36, 0.92), "#101010"),
        ("oval", (0.64, 0.66, 0.9, 0.92), "#101010"),
    ],
    "truck": [
        ("rect", (0.0, 0.1, 0.64, 0.75), "#2038c0"),
        ("rect", (0.64, 0.35, 1.0, 0.75), "#f0f0f0"),
        ("oval", (0.08, 0.64, 0.34, 0.9), "#101010"),
        ("oval", (0.66, 0.64, 0.92, 0.9), "#101010"),
    ],
    "boat": [
        ("poly", (0.0, 0.62, 1.0, 0.62, 0.8, 0.95, 0.2, 0.95), "#704010"),
        ("poly", (0.48, 0.0, 0.48, 0.58, 0.05, 0.58), "#ffffff"),
        ("poly", (0.54, 0.1, 0.54, 0.58, 0.92, 0.58), "#e04040"),
    ],
    "traffic light": [
        ("rect", (0.3, 0.0, 0.7, 0.95), "#202020"),
        ("oval", (0.36, 0.04, 0.64, 0.32), "#ff2020"),
        ("oval", (0.36, 0.34, 0.64, 0.62), "#ffd000"),
        ("oval", (0.36, 0.64, 0.64, 0.92), "#10e030"),
    ],
    "fire hydrant": [
        ("rect", (0.32, 0.25, 0.68, 0.9), "#f8c800"),
        ("oval", (0.3, 0.05, 0.7, 0.42), "#f8c800"),
        ("rect", (0.1, 0.42, 0.9, 0.6), "#f8c800"),
        ("rect", (0.2, 0.86, 0.8, 1.0), "#a07800"),
    ],
    "stop sign": [
        ("rect", (0.45, 0.6, 0.55, 1.0), "#808080"),
        ("poly", (0.3, 0, 0.7, 0, 0.95, 0.22, 0.95, 0.45, 0.7, 0.68, 0.3, 0.68, 0.05, 0.45, 0.05, 0.22), "#e01010"),
        ("rect", (0.15, 0.26, 0.85, 0.42), "#ffffff"),
    ],
    "bench": [
        ("rect", (0.0, 0.25, 1.0, 0.4), "#905020"),
        ("rect", (0.0, 0.5, 1.0, 0.66), "#905020"),
        ("rect", (0.08, 0.25, 0.18, 0.95), "#303030"),
        ("rect", (0.82, 0.25, 0.92, 0.95), "#303030"),
    ],
    "bird": [
        ("oval", (0.2, 0.35, 0.8, 0.8), "#1880f0"),
        ("oval", (0.6, 0.15, 0.95, 0.5), "#1880f0"),
        ("poly", (0.92, 0.28, 1.0, 0.34, 0.92, 0.42), "#ff9000"),
        ("poly", (0.0, 0.3, 0.5, 0.45, 0.3, 0.62), "#0848a0"),
    ],
    "cat": [
        ("oval", (0.15, 0.25, 0.85, 0.95), "#f08820"),
        ("poly", (0.15, 0.5, 0.2, 0.0, 0.48, 0.3), "#f08820"),
        ("poly", (0.85, 0.5, 0.8, 0.0, 0.52, 0.3), "#f08820"),
        ("oval", (0.3, 0.48, 0.42, 0.62), "#103010"),
        ("oval", (0.58, 0.48, 0.7, 0.62), "#103010"),
    ],
    "dog": [
        ("oval", (0.2, 0.15, 0.8, 0.9), "#a86830"),
        ("oval", (0.0, 0.15, 0.3, 0.7), "#502808"),
        ("oval", (0.7, 0.15, 1.0, 0.7), "#502808"),
        ("oval", (0.38, 0.6, 0.62, 0.8), "#101010"),
    ],
    "horse": [
        ("rect", (0.1, 0.4, 0.75, 0.66), "#603010"),
        ("poly", (0.62, 0.5, 0.78, 0.0, 1.0, 0.2, 0.8, 0.55), "#603010"),
        ("rect", (0.12, 0.62, 0.22, 1.0), "#603010"),
        ("rect", (0.6, 0.62, 0.7, 1.0), "#603010"),
        ("line", (0.1, 0.42, 0.0, 0.75), "#101010"),
    ],
    "sheep": [
        ("oval", (0.1, 0.2, 0.8, 0.75), "#fafafa"),
        ("oval", (0.68, 0.25, 0.98, 0.58), "#202020"),
        ("rect", (0.22, 0.7, 0.32, 0.98), "#202020"),
        ("rect", (0.58, 0.7, 0.68, 0.98), "#202020"),
    ],
    "cow": [
        ("rect", (0.05, 0.3, 0.75, 0.7), "#f4f4f4"),
        ("oval", (0.1, 0.32, 0.36, 0.58), "#101010"),
        ("oval", (0.42, 0.42, 0.66, 0.68), "#101010"),
        ("rect", (0.72, 0.15, 1.0, 0.48), "#f0a0a0"),
        ("rect", (0.08, 0.7, 0.18, 1.0), "#f4f4f4"),
        ("rect", (0.6, 0.7, 0.7, 1.0), "#f4f4f4"),
    ],
    "umbrella": [
        ("pie", (0.0, 0.05, 1.0, 0.95), "#c020e0"),
        ("rect", (0.46, 0.48, 0.54, 1.0), "#404040"),
    ],
    "kite": [
        ("poly", (0.5, 0.0, 0.85, 0.35, 0.5, 0.75, 0.15, 0.35), "#10d8d8"),
        ("line", (0.5, 0.05, 0.5, 0.7), "#e01060"),
        ("line", (0.5, 0.75, 0.8, 1.0), "#e01060"),
    ],
    "surfboard": [
        ("oval", (0.3, 0.0, 0.7, 1.0), "#ff7ac0"),
        ("rect", (0.47, 0.05, 0.53, 0.95), "#ffffff"),
    ],
    "cup": [
        ("rect", (0.15, 0.2, 0.7, 0.9), "#20b060"),
        ("ring", (0.55, 0.32, 0.98, 0.72), "#20b060"),
        ("oval", (0.15, 0.1, 0.7, 0.32), "#402000"),
    ],
    "bowl": [
        ("half", (0.0, -0.1, 1.0, 0.95), "#3060ff"),
        ("oval", (0.0, 0.3, 1.0, 0.56), "#fff0c0"),
    ],
    "banana": [
        ("poly", (0.0, 0.3, 0.25, 0.72, 0.7, 0.8, 1.0, 0.4, 0.92, 0.3, 0.65, 0.55, 0.35, 0.5, 0.1, 0.22), "#ffe600"),
        ("rect", (0.9, 0.2, 1.0, 0.4), "#604000"),
    ],
    "pizza": [
        ("poly", (0.0, 0.1, 1.0, 0.1, 0.5, 1.0), "#f8c040"),
        ("rect", (0.0, 0.02, 1.0, 0.2), "#a86020"),
        ("oval", (0.3, 0.26, 0.5, 0.46), "#d02010"),
        ("oval", (0.52, 0.42, 0.7, 0.6), "#d02010"),
    ],
    "cake": [
        ("rect", (0.05, 0.5, 0.95, 0.95), "#ffb0d8"),
        ("rect", (0.05, 0.4, 0.95, 0.6), "#ffffff"),
        ("rect", (0.28, 0.1, 0.36, 0.42), "#e02020"),
        ("rect", (0.64, 0.1, 0.72, 0.42), "#e02020"),
    ],
    "couch": [
        ("rect", (0.1, 0.15, 0.9, 0.6), "#108070"),
        ("rect", (0.0, 0.4, 0.2, 0.9), "#0a5a50"),
        ("rect", (0.8, 0.4, 1.0, 0.9), "#0a5a50"),
        ("rect", (0.2, 0.55, 0.8, 0.85), "#20b0a0"),
    ],
    "potted plant": [
        ("poly", (0.25, 0.6, 0.75, 0.6, 0.66, 1.0, 0.34, 1.0), "#c85a20"),
        ("oval", (0.1, 0.1, 0.5, 0.6), "#10a020"),
        ("oval", (0.5, 0.1, 0.9, 0.6), "#10a020"),
        ("oval", (0.34, 0.0, 0.66, 0.55), "#30d040"),
    ],
    "laptop": [
        ("rect", (0.15, 0.1, 0.85, 0.62), "#303038"),
        ("rect", (0.22, 0.17, 0.78, 0.56), "#60c8ff"),
        ("poly", (0.15, 0.64, 0.85, 0.64, 1.0, 0.88, 0.0, 0.88), "#a0a0a8"),
    ],
    "cell phone": [
        ("rect", (0.28, 0.0, 0.72, 1.0), "#101018"),
        ("rect", (0.34, 0.12, 0.66, 0.8), "#b8ff60"),
        ("oval", (0.44, 0.84, 0.56, 0.96), "#f0f0f0"),
    ],
    "book": [
        ("poly", (0.0, 0.2, 0.48, 0.3, 0.48, 0.9, 0.0, 0.8), "#8020c0"),
        ("poly", (1.0, 0.2, 0.52, 0.3, 0.52, 0.9, 1.0, 0.8), "#8020c0"),
        ("poly", (0.08, 0.26, 0.48, 0.34, 0.48, 0.8, 0.08, 0.72), "#fff8e0"),
        ("poly", (0.92, 0.26, 0.52, 0.34, 0.52, 0.8, 0.92, 0.72), "#fff8e0"),
    ],
    "clock": [
        ("oval", (0.05, 0.05, 0.95, 0.95), "#181818"),
        ("oval", (0.15, 0.15, 0.85, 0.85), "#fffff0"),
        ("line", (0.5, 0.5, 0.5, 0.22), "#181818"),
        ("line", (0.5, 0.5, 0.72, 0.6), "#181818"),
    ],
    "vase": [
        ("oval", (0.2, 0.35, 0.8, 1.0), "#e8e0ff"),
        ("rect", (0.38, 0.15, 0.62, 0.5), "#e8e0ff"),
        ("rect", (0.2, 0.6, 0.8, 0.72), "#3040e0"),
        ("oval", (0.3, 0.0, 0.7, 0.2), "#ff3070"),
    ],
    "teddy bear": [
        ("oval", (0.2, 0.45, 0.8, 1.0), "#c09060"),
        ("oval", (0.25, 0.08, 0.75, 0.55), "#d8a878"),
        ("oval", (0.15, 0.0, 0.4, 0.25), "#c09060"),
        ("oval", (0.6, 0.0, 0.85, 0.25), "#c09060"),
        ("poly", (0.35, 0.52, 0.65, 0.52, 0.5, 0.68), "#f01030"),
    ],
}
CATEGORIES: tuple[str, ...] = tuple(GLYPHS)


@dataclass(frozen=True)
class SceneKind:
    """A kind of scene: its backdrop (upper and lower colour) and the six objects that usually go with it."""

    phrase: str
    upper: str
    lower: str
    habits: tuple[str, ...]


SCENE_KINDS: dict[str, SceneKind] = {
    "street": SceneKind(
        "on a street", "#a8c0d8", "#707478", ("car", "truck", "bicycle", "traffic light", "stop sign", "fire hydrant")
    ),
    "park": SceneKind("in a park", "#b8e0ff", "#78b860", ("bench", "dog", "bicycle", "kite", "bird", "umbrella")),
    "farm": SceneKind("on a farm", "#d8f0f8", "#c8b060", ("horse", "cow", "sheep", "truck", "bird", "dog")),
    "beach": SceneKind("on a beach", "#60b8e8", "#f0dca0", ("surfboard", "boat", "umbrella", "kite", "bird", "dog")),
    "kitchen": SceneKind("in a kitchen", "#f8f0e0", "#b89878", ("cup", "bowl", "banana", "pizza", "cake", "clock")),
    "living room": SceneKind(
        "in a living room", "#e0c8b0", "#885848", ("couch", "cat", "vase", "book", "potted plant", "clock")
    ),
    "bedroom": SceneKind(
        "in a bedroom", "#c8c0e8", "#706898", ("teddy bear", "book", "cat", "clock", "cell phone", "cup")
    ),
    "office": SceneKind(
        "in an office", "#d8dce0", "#98a0a8", ("laptop", "cell phone", "book", "cup", "potted plant", "vase")
    ),
}


@dataclass(frozen=True)
class PlacedObject:
    """One object of a scene and its box in canvas pixels (x0, y0, x1, y1)."""

    category: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """What is in a picture: the truth that annotations, captions and questions are written from."""

    kind: str
    objects: tuple[PlacedObject, ...]
    render_seed: int

    @property
    def counts(self) -> dict[str, int]:
        """How many instances of each category the scene shows."""
        counts: dict[str, int] = {}
        for placed in self.objects:
            counts[placed.category] = counts.get(placed.category, 0) + 1
        return counts

    @property
    def absent_habits(self) -> tuple[str, ...]:
        """What usually goes with such a scene and is not in this one: the stuff of hallucinations."""
        return tuple(c for c in SCENE_KINDS[self.kind].habits if c not in self.counts)


def sample_scene(rng: random.Random, habit_share: float = 0.85, pair_share: float = 0.2) -> Scene:
    """Draw a scene: one to four categories, each habitual with probability ``habit_share``, sometimes a pair of one."""
    kind = rng.choice(list(SCENE_KINDS))
    habits = SCENE_KINDS[kind].habits
    strangers = [c for c in CATEGORIES if c not in habits]
    wanted = rng.choice((1, 2, 2, 3, 3, 4, 4))
    categories: list[str] = []
    while len(categories) < wanted:
        category = rng.choice(habits if rng.random() < habit_share else strangers)
        if category not in categories:
            categories.append(category)
    cells = rng.sample(range(GRID * GRID), GRID * GRID)
    placed = []
    for category in categories:
        for _ in range(2 if rng.random() < pair_share else 1):
            row, column = divmod(cells.pop(), GRID)
            size = rng.randint(26, 31)
            x = column * CELL_PIXELS + rng.randint(0, CELL_PIXELS - size)
            y = row * CELL_PIXELS + rng.randint(0, CELL_PIXELS - size)
            placed.append(PlacedObject(category, (x, y, x + size, y + size)))
    return Scene(kind, tuple(placed), rng.getrandbits(32))


def draw_scenes(count: int, seed: int) -> list[Scene]:
    """``count`` scenes from a seed of their own."""
    rng = random.Random(seed)
    return [sample_scene(rng) for _ in range(count)]


def _rgb(colour: str, gain: float = 1.0) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    channels = colorsys.hls_to_rgb(hue, min(lightness * gain, 1.0), saturation)
    return tuple(round(255 * c) for c in channels)  # type: ignore[return-value]


def _draw_glyph(draw: ImageDraw.ImageDraw, placed: PlacedObject, flip: bool, gain: float) -> None:
    x0, y0, x1, _ = placed.box
    size = x1 - x0
    for kind, unit, colour in GLYPHS[placed.category]:
        xs = [1 - x if flip else x for x in unit[0::2]]
        points = [(x0 + x * size, y0 + y * size) for x, y in zip(xs, unit[1::2], strict=True)]
        fill = _rgb(colour, gain)
        thickness = max(2, size // 10)
        if kind == "poly":
            draw.polygon(points, fill=fill)
        elif kind == "line":
            draw.line(points, fill=fill, width=thickness)
        else:
            (ax, ay), (bx, by) = points
            box = (min(ax, bx), ay, max(ax, bx), by)
            if kind == "rect":
                draw.rectangle(box, fill=fill)
            elif kind == "oval":
                draw.ellipse(box, fill=fill)
            elif kind == "ring":
                draw.ellipse(box, outline=fill, width=thickness)
            else:  # "pie": the upper half of an ellipse; "half": its lower half
                start = 180 if kind == "pie" else 0
                draw.pieslice(box, start, start + 180, fill=fill)


def render_scene(scene: Scene) -> Image.Image:
    """Render a scene as an RGB picture of ``CANVAS_PIXELS`` squared; the same scene always gives the same pixels."""
    rng = random.Random(scene.render_seed)
    kind = SCENE_KINDS[scene.kind]
    image = Image.new("RGB", (CANVAS_PIXELS, CANVAS_PIXELS), _rgb(kind.upper, rng.uniform(0.93, 1.05)))
    draw = ImageDraw.Draw(image)
    horizon = rng.randint(CANVAS_PIXELS * 2 // 5, CANVAS_PIXELS * 3 // 5)
    draw.rectangle((0, horizon, CANVAS_PIXELS, CANVAS_PIXELS), fill=_rgb(kind.lower, rng.uniform(0.93, 1.05)))
    for placed in scene.objects:
        _draw_glyph(draw, placed, flip=rng.random() < 0.5, gain=rng.uniform(0.9, 1.1))
    return image
