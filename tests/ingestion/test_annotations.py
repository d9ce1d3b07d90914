from types import MappingProxyType

import pandas as pd
import pytest

from fisao_pipeline.ingestion.annotations import ANNOTATED_COLUMNS, annotate_images

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def images(*names):
    hashes = [f"{name}-hash" for name in names]
    return pd.DataFrame({"file_name": names, "width": 64, "height": 48, "sha256": hashes, "pixels": hashes})


def coco(image_list, annotations=(), **more):
    return {
        "images": [{"id": image_id, "file_name": name} for image_id, name in image_list],
        "annotations": [{"id": number, **row} for number, row in enumerate(annotations)],
        "categories": CATEGORIES,
        **more,
    }


def says(image_id, category_id):
    return {"image_id": image_id, "category_id": category_id}


def run(names, *contents, refused=()):
    files = [(f"{number}.json", content) for number, content in enumerate(contents)] or None
    manifest, rejected, _ = annotate_images(images(*names), files, pd.DataFrame({"name": list(refused)}, dtype="str"))
    assert list(manifest.columns) == ANNOTATED_COLUMNS
    return manifest.set_index("file_name"), dict(zip(rejected["name"], rejected["reason"], strict=True))


def test_objects_are_names_once_each_empty_or_unknown():
    content = coco([(7, "a.jpg"), (8, "b.jpg")], [says(7, 2), says(7, 1), says(7, 2)])
    manifest, rejected = run(["a.jpg", "b.jpg", "c.jpg"], content)
    assert [list(row) if row is not None else None for row in manifest["objects"]] == [["cat", "dog"], [], None]
    assert list(manifest["image_id"]) == ["7", "8", "c"]
    assert list(manifest["captions"]) == [None, None, None] and not rejected


def test_categories_are_those_declared_by_any_file_seen_or_not():
    """A name with two ids counts once; an id with two names, or without one, is no category."""
    broken = [{"id": 5, "name": "bird"}, {"id": 5, "name": "bat"}, {"id": 6}, {"id": 7, "name": "dog"}]
    contents = [
        coco([(7, "a.jpg")], [says(7, 2)]),
        coco([(7, "a.jpg")], categories=[*broken, {"id": 1, "name": "ape"}]),
    ]
    files = [(f"{number}.json", content) for number, content in enumerate(contents)]
    *_, categories = annotate_images(images("a.jpg"), files, pd.DataFrame({"name": []}, dtype="str"))
    assert categories == ["ape", "cat", "dog"]


def test_without_annotations_nothing_is_declared():
    *_, categories = annotate_images(images("a.jpg"), None, pd.DataFrame({"name": []}, dtype="str"))
    assert categories == []


def test_without_annotations_ids_are_names_without_extension_where_unique():
    manifest, _ = run(["a.jpg", "a.png", "b.jpg", "sub/c.jpg"])
    assert list(manifest["image_id"]) == ["a.jpg", "a.png", "b", "c"]
    assert manifest["objects"].isna().all()


def test_a_name_that_is_an_annotated_id_falls_back_to_the_path():
    manifest, _ = run(["7.jpg", "a.jpg"], coco([(7, "a.jpg")]))
    assert dict(manifest["image_id"]) == {"7.jpg": "7.jpg", "a.jpg": "7"}


def test_instances_and_captions_come_from_files_that_number_images_each_in_its_way():
    captions = {
        "images": [{"id": 55, "file_name": "a.jpg"}, {"id": 56, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 55, "caption": " A cat. "}, {"image_id": 55, "caption": "Cats."}],
    }
    manifest, rejected = run(["a.jpg", "b.jpg"], coco([(1, "a.jpg")], [says(1, 1)]), captions)
    assert manifest["captions"]["a.jpg"] == ["A cat.", "Cats."] and manifest["captions"]["b.jpg"] is None
    assert manifest["objects"]["a.jpg"] == ("cat",)
    assert manifest["objects"]["b.jpg"] is None, "a captions file says nothing about objects"
    assert dict(manifest["image_id"]) == {"a.jpg": "1", "b.jpg": "56"} and not rejected


def test_captions_may_stand_in_a_section_of_their_own():
    content = coco([(1, "a.jpg")], [says(1, 1)], captions=[{"image_id": 1, "caption": "A cat."}])
    manifest, rejected = run(["a.jpg"], content)
    assert manifest["captions"]["a.jpg"] == ["A cat."] and manifest["objects"]["a.jpg"] == ("cat",) and not rejected


def test_what_cannot_be_used_is_refused_with_its_reason():
    content = coco(
        [(1, "a.jpg"), (2, "gone.jpg"), (3, "broken.jpg"), (4, "dup.jpg"), (5, None), (1.0, "a.jpg"), (9, "a.jpg")],
        [says(1, 99), says(77, 1), {"image_id": 1}, says(2, 1), says(1, 1)],
    )
    content["images"] += ["nonsense"]
    content["annotations"] += [None]
    manifest, rejected = run(["a.jpg", "x/dup.jpg", "y/dup.jpg"], content, refused=["broken.jpg"])
    classes = {name: reason.split(":")[0] for name, reason in rejected.items()}
    assert classes == {
        "gone.jpg": "no such image in the folder",
        "broken.jpg": "image was rejected",
        "dup.jpg": "ambiguous image name",
        "a.jpg": "second entry for one image",
        "0.json image 5": "image entry without id or file_name",
        "0.json image None": "image entry without id or file_name",
        "0.json annotation 0": "unknown category",
        "0.json annotation 1": "unknown image id",
        "0.json annotation 2": "neither category nor caption",
        "0.json annotation None": "unknown image id",
    }
    assert manifest["objects"]["a.jpg"] == ("cat",)


def test_an_image_entry_that_is_repeated_is_refused_once():
    manifest, rejected = run(["a.jpg"], coco([(1, "a.jpg"), ("1", "a.jpg")], [says(1, 1)]))
    assert list(rejected.values()) == ["repeated image entry: id 1 in 0.json"]
    assert manifest["objects"]["a.jpg"] == ("cat",)


def test_an_id_of_two_images_annotates_neither():
    content = coco([(1, "a.jpg"), (1, "b.jpg"), (2, "c.jpg")], [says(1, 1)])
    manifest, rejected = run(["a.jpg", "b.jpg", "c.jpg"], content)
    assert set(rejected) == {"a.jpg", "b.jpg"} and all("ambiguous image id" in reason for reason in rejected.values())
    assert manifest["objects"]["a.jpg"] is None and manifest["objects"]["b.jpg"] is None
    assert list(manifest["image_id"]) == ["a", "b", "2"]


def test_files_that_number_other_images_alike_both_count_and_the_second_image_goes_by_its_name():
    """As COCO's train2017 and val2014 do: nothing of the second file is lost."""
    train = coco([(9, "train2017/009.jpg"), (1, "a.jpg")], [says(9, 2)])
    val = coco([(9, "COCO_val2014_009.jpg")], [says(9, 1)])
    manifest, rejected = run(["a.jpg", "train2017/009.jpg", "val2014/COCO_val2014_009.jpg"], train, val)
    assert not rejected
    assert list(manifest["image_id"]) == ["1", "9", "COCO_val2014_009"]
    assert list(manifest["objects"]) == [(), ("dog",), ("cat",)]
    assert list(manifest["sources"]) == [("0.json",), ("0.json",), ("1.json",)]


def test_each_image_knows_the_files_that_list_it():
    manifest, _ = run(["a.jpg", "b.jpg", "c.jpg"], coco([(1, "a.jpg"), (2, "b.jpg")]), coco([(2, "b.jpg")]))
    assert list(manifest["sources"]) == [("0.json",), ("0.json", "1.json"), None]


def test_rows_may_be_any_collection_that_can_be_read_again():
    content = coco([(1, "a.jpg")], [says(1, 1)])
    lazy = MappingProxyType({key: dict.fromkeys(map(Row, rows)).keys() for key, rows in content.items()})
    manifest, rejected = run(["a.jpg"], lazy)
    assert manifest["objects"]["a.jpg"] == ("cat",) and not rejected


class Row(dict):
    def __hash__(self):
        return hash(str(self))


def test_a_category_id_with_two_names_is_no_category():
    content = coco([(1, "a.jpg")], [says(1, 1), says(1, 2)])
    content["categories"] = [*CATEGORIES, {"id": 1, "name": "horse"}, {"id": 2, "name": "dog"}]
    manifest, rejected = run(["a.jpg"], content)
    assert manifest["objects"]["a.jpg"] == ("dog",)
    assert any("category without one id and one name" in reason for reason in rejected.values())


def test_text_that_cannot_be_stored_is_refused(tmp_path):
    content = coco([(1, "a.jpg"), (2, "\ud800.jpg")], [{"image_id": 1, "caption": "\ud800"}])
    _, rejected, _ = annotate_images(images("a.jpg"), [("x.json", content)], pd.DataFrame({"name": []}, dtype="str"))
    assert len(rejected) == 2
    rejected.to_parquet(tmp_path / "rejected.parquet")


def test_annotations_of_other_images_are_an_error_with_a_remedy():
    with pytest.raises(ValueError, match=r"None of the images listed in 0\.json.*raw_annotations\.filepath: null"):
        run(["a.jpg"], coco([(1, "z.jpg")]))


@pytest.mark.parametrize("content", [[], {"annotations": []}, {"images": {}}, {"images": [], "categories": None}])
def test_a_file_that_is_no_coco_is_named(content):
    with pytest.raises(ValueError, match=r"0\.json is no COCO JSON"):
        run(["a.jpg"], content)


def test_the_manifest_survives_parquet_with_its_types(tmp_path):
    manifest, *_ = annotate_images(
        images("a.jpg", "b.jpg"), [("x.json", coco([(1, "a.jpg")], [says(1, 1)]))], pd.DataFrame({"name": []})
    )
    manifest.to_parquet(tmp_path / "manifest.parquet")
    read = pd.read_parquet(tmp_path / "manifest.parquet")
    assert list(read["objects"][0]) == ["cat"] and read["objects"][1] is None
    assert str(read["image_id"].dtype) == "str" and str(read["width"].dtype) == "int64"
