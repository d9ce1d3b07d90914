import pytest

from fisao_pipeline.ingestion.names import ImageNames

NAMES = ImageNames(["1.jpg", "train/2.jpg", "a/3.jpg", "b/3.jpg", "café.jpg"])


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("1.jpg", ["1.jpg"]),
        ("./1.jpg", ["1.jpg"]),
        ("coco/val/1.jpg", ["1.jpg"]),
        ("/home/me/1.jpg", ["1.jpg"]),
        ("2.jpg", ["train/2.jpg"]),
        ("coco/train/2.jpg", ["train/2.jpg"]),
        ("val/2.jpg", []),
        ("3.jpg", ["a/3.jpg", "b/3.jpg"]),
        ("b/3.jpg", ["b/3.jpg"]),
        ("../1.jpg", []),
        ("", []),
        ("11.jpg", []),
    ],
)
def test_a_reference_means_a_file_when_one_path_ends_with_the_other(reference, found):
    assert NAMES.find(reference) == found


def test_names_whose_hashes_collide_are_told_apart(monkeypatch):
    monkeypatch.setattr("fisao_pipeline.ingestion.names.hash", lambda text: 7, raising=False)
    names = ImageNames(["b.jpg", "a.jpg", "x/a.jpg"])
    assert names.rows("a.jpg") == [1] and names.rows("y/b.jpg") == [0] and names.rows("c.jpg") == []
    assert names.rows("z/x/a.jpg") == [1, 2] and names.find("z/x/a.jpg") == ["a.jpg", "x/a.jpg"]
