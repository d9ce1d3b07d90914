import hashlib
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisao_pipeline.ingestion.copies import KEPT_FIRST, deal_images, quarantined_images
from fisao_pipeline.ingestion.splits import allowed_splits, assign_split


def table(names, pixels):
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    columns = {"image_id": [f"id-{name}" for name in names], "file_name": names, "sha256": hashes}
    return pd.DataFrame({**columns, "pixels": list(map(str, pixels))}, dtype="str")


@pytest.mark.parametrize(("better", "worse"), list(pairwise(KEPT_FIRST)))
@pytest.mark.parametrize("first", [True, False])
def test_of_two_copies_the_one_in_the_split_that_counts_more_stays(make_params, better, worse, first):
    images = table(["a.jpg", "b.jpg", "c.jpg"], [1, 1, 2])
    asked = {0: better, 1: worse} if first else {0: worse, 1: better}
    dealt = deal_images(images, asked, [None] * 3, make_params())
    kept, gone = (0, 1) if first else (1, 0)
    assert dealt.kept_copies == {gone: kept} and dealt.splits[gone] == worse
    (refusal,) = quarantined_images(images, dealt)
    assert refusal.name == images["file_name"][gone] and refusal.kind == "image"
    assert refusal.reason == (
        f"copy across splits: quarantined from {worse}, the same picture is {images['file_name'][kept]} "
        f"(image_id {images['image_id'][kept]}) in {better}"
    )


def test_train2017_loses_what_val2014_holds(make_params):
    names = ["train2017/1.jpg", "train2017/2.jpg", "train2017/3.jpg", "val2014/COCO_1.jpg", "val2014/COCO_2.jpg"]
    sources = {"train2017": ["calibration", "training", "probe"], "val2014": ["held_out"]}
    images = table(names, [1, 2, 3, 1, 2])
    dealt = deal_images(images, {}, allowed_splits(names, [None] * 5, sources), make_params())
    assert dealt.kept_copies == {0: 3, 1: 4}
    assert dealt.splits[3:] == ["held_out", "held_out"] and "held_out" not in dealt.splits[:3]


@settings(max_examples=50, deadline=None)
@given(data=st.data(), pixels=st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_no_picture_is_ever_in_two_splits_and_none_is_lost(make_params_of_session, data, pixels):
    names = [f"{number}.jpg" for number in range(len(pixels))]
    wanted = st.sampled_from(KEPT_FIRST)
    asked = data.draw(st.dictionaries(st.sampled_from(range(len(pixels))), wanted))
    images = table(names, pixels)
    dealt = deal_images(images, asked, [None] * len(pixels), make_params_of_session)
    splits, kept_rows = {}, set()
    for row, picture in enumerate(pixels):
        if row not in dealt.kept_copies:
            kept_rows.add(row)
            assert splits.setdefault(picture, dealt.splits[row]) == dealt.splits[row]
    assert set(splits) == set(pixels), "of every picture a copy is left"
    for gone, kept in dealt.kept_copies.items():
        assert kept in kept_rows and pixels[gone] == pixels[kept]
        assert KEPT_FIRST.index(dealt.splits[kept]) < KEPT_FIRST.index(dealt.splits[gone])
    assert all(dealt.splits[row] == split for row, split in asked.items())


def test_sources_by_folder_and_by_file_and_both(make_params):
    names = ["a/b/1.jpg", "a/2.jpg", "ab/3.jpg", "4.jpg"]
    listed = [("x.json",), ("x.json", "y.json"), None, ("y.json",)]
    wanted = {"a": ["training", "held_out"], "x.json": ["calibration", "training"], "y.json": ["training"]}
    assert allowed_splits(names, listed, wanted) == [("training",), ("training",), None, ("training",)]
    assert allowed_splits(names, listed, {}) == [None] * 4
    assert allowed_splits(names, listed, {"a/b/": ["probe"]}) == [("probe",), None, None, None]


def test_a_source_that_means_no_image_is_named_beside_those_there_are():
    with pytest.raises(ValueError, match=r"source_splits: 'val2041' is neither.*Folders: val2014; files: x\.json"):
        allowed_splits(["val2014/1.jpg"], [("x.json",)], {"val2041": ["held_out"]})


def test_sources_without_a_split_in_common_are_refused():
    with pytest.raises(ValueError, match=r"'a' and 'x\.json' mean the same images and name no split in common"):
        allowed_splits(["a/1.jpg"], [("x.json",)], {"a": ["training"], "x.json": ["held_out"]})


def test_among_allowed_splits_the_fractions_decide():
    fractions = {"calibration": 0.2, "training": 0.6, "probe": 0.0, "held_out": 0.2}
    contents = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(2000)]
    dealt = [assign_split(content, fractions, 0, ("calibration", "training", "probe")) for content in contents]
    assert set(dealt) == {"calibration", "training"}
    assert abs(dealt.count("calibration") / 2000 - 0.25) < 0.05
    assert {assign_split(content, fractions, 0, ("probe",)) for content in contents} == {"probe"}
