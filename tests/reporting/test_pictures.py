"""Pictures within a page."""

import base64
import io
import re

import numpy as np
from PIL import Image

from fisao_pipeline.reporting.pictures import STEPS, data_uri, data_uris


def noise(width=80, height=40, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def test_a_picture_is_downscaled_and_loses_its_metadata():
    image = noise()
    image.info["comment"] = image.info["exif"] = b"where I live"
    uri = data_uri(image, 32, 80)
    assert re.fullmatch(r"data:image/webp;base64,[A-Za-z0-9+/]+=*", uri)
    assert decoded(uri).size == (32, 16)
    assert b"where I live" not in base64.b64decode(uri.split(",")[1])
    assert image.size == (80, 40), "the caller's picture is left alone"
    assert decoded(data_uri(image, 500, 80)).size == (80, 40)


def test_all_pictures_are_as_good_as_fits():
    ids = ["a", "b"]
    images = {name: noise(400, 400, seed) for seed, name in enumerate(ids)}
    free = data_uris(ids, images.__getitem__, 400, 10**9)
    assert [decoded(uri).size for uri in free.values()] == [(400, 400)] * 2
    limit = sum(map(len, free.values())) // 3
    tight = data_uris(ids, images.__getitem__, 400, limit)
    assert sum(map(len, tight.values())) <= limit
    assert len({decoded(uri).size for uri in tight.values()}) == 1, "none is coarser than another"


def test_a_picture_that_is_shown_twice_weighs_twice():
    image = noise(400, 400)
    once = data_uris(["a"], lambda _: image, 400, 10**9)
    limit = len(once["a"]) * 3 // 2
    assert data_uris(["a"], lambda _: image, 400, limit) == once
    assert len(data_uris(["a", "a"], lambda _: image, 400, limit)["a"]) * 2 <= limit


def test_a_limit_that_cannot_be_held_gives_the_coarsest():
    (uri,) = data_uris(["a"], lambda _: noise(400, 400), 400, 1).values()
    assert decoded(uri).size == (round(400 * STEPS[-1][0]),) * 2


def test_no_picture():
    assert data_uris([], lambda _: noise(), 10, 10) == {}
