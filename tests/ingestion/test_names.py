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
