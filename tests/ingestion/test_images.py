import os

import numpy as np
import pytest
from PIL import Image

from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.ingestion.images import IMAGE_COLUMNS, check_images
from fisao_pipeline.params.base import MAX_ASPECT_RATIO

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))


def write_bad_files(root):
    """Write one file of each kind that must be refused; return the expected class of reason by name."""
    NOISE.save(root / "whole.jpg")
    whole = (root / "whole.jpg").read_bytes()
    (root / "whole.jpg").unlink()
    (root / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "empty.png").touch()
    (root / "text.jpg").write_text("not an image")
    (root / "program").write_bytes(b"\x7fELF" + bytes(100))
    NOISE.save(root / "film.gif", save_all=True, append_images=[Image.new("RGB", (60, 40))])
    Image.new("1", (3000, 3000)).save(root / "bomb.png")
    Image.new("RGB", (200, 4)).save(root / "sliver.png")
    Image.new("RGB", (20, 20 * MAX_ASPECT_RATIO + 1)).save(root / "tape.png")
    (root / "out.png").symlink_to(root.parent)
    return {
        "truncated.jpg": "truncated or corrupt",
        "empty.png": "empty file",
        "text.jpg": "not a readable image",
        "program": "not a readable image",
        "film.gif": "more than one frame",
        "bomb.png": "too many pixels",
        "sliver.png": "too small",
        "tape.png": "too narrow",
        "out.png": "leaves the image folder",
    }


def write_good_files(root):
    (root / "sub").mkdir()
    NOISE.save(root / "plain.jpg")
    NOISE.save(root / "sub" / "png_named.jpg", "PNG")
    NOISE.convert("CMYK").save(root / "print.jpg")
    NOISE.quantize(16).save(root / "palette.png")
    NOISE.convert("L").save(root / "grey.png")
    Image.fromarray(np.full((40, 60), 40_000, dtype=np.uint16)).save(root / "deep.png")
    NOISE.save(root / "no_extension", "WEBP")
    return ["deep.png", "grey.png", "no_extension", "palette.png", "plain.jpg", "print.jpg", "sub/png_named.jpg"]


def test_every_file_is_either_usable_or_refused_with_its_reason(tmp_path, make_params, caplog):
    root = tmp_path / "photos"
    root.mkdir()
    good, bad = write_good_files(root), write_bad_files(root)
    with caplog.at_level("INFO"):
        usable, refused = check_images(ImageFolder(root), make_params(max_pixels=1_000_000, max_rejected_share=0.9))
    assert list(usable["file_name"]) == good
    assert list(usable.columns) == IMAGE_COLUMNS
    assert set(usable["width"]) == {60} and set(usable["height"]) == {40}
    assert {row.name: row.reason.split(":")[0] for row in refused.itertuples(index=False)} == bad
    assert set(refused["kind"]) == {"image"}
    assert "sub/png_named.jpg is PNG" in caplog.text


def test_byte_identical_images_are_kept_and_share_their_hash(tmp_path, make_params):
    for name in ("a.png", "b.png"):
        NOISE.save(tmp_path / name)
    usable, _ = check_images(ImageFolder(tmp_path), make_params())
    assert len(usable) == 2 and usable["sha256"].nunique() == 1


def test_a_file_name_that_is_not_utf_8_is_refused_and_storable(tmp_path, make_params):
    NOISE.save(tmp_path / "good.png")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as stream:
        NOISE.save(stream, "PNG")
    usable, refused = check_images(ImageFolder(tmp_path), make_params())
    assert list(usable["file_name"]) == ["good.png"]
    assert list(refused["name"]) == ["caf\\udce9.png"]
    refused.to_parquet(tmp_path / "refused.parquet")


def test_an_empty_folder_is_an_error_with_a_remedy(tmp_path, make_params):
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds no files.*image_folder\.filepath.*real_models") as error:
        check_images(ImageFolder(tmp_path), make_params())
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(("bad", "share", "stops"), [(1, 0.5, False), (2, 0.5, True), (2, 1.0, False)])
def test_too_large_a_share_of_refused_files_stops_the_run(tmp_path, make_params, bad, share, stops):
    NOISE.save(tmp_path / "good.png")
    for number in range(bad):
        (tmp_path / f"bad{number}.jpg").touch()
    params = make_params(max_rejected_share=share)
    if not stops:
        assert len(check_images(ImageFolder(tmp_path), params)[1]) == bad
        return
    with pytest.raises(ValueError, match=r"2 of 3 files.*2 x empty file \(bad0.jpg, bad1.jpg\).*max_rejected_share"):
        check_images(ImageFolder(tmp_path), params)


def test_no_usable_image_is_an_error_at_any_tolerance(tmp_path, make_params):
    (tmp_path / "bad.jpg").touch()
    with pytest.raises(ValueError, match="1 of 1 files"):
        check_images(ImageFolder(tmp_path), make_params(max_rejected_share=1.0))


def test_the_answer_does_not_depend_on_the_number_of_threads(tmp_path, make_params):
    for number in range(30):
        Image.new("RGB", (20 + number, 20), (number, 0, 0)).save(tmp_path / f"{number}.png")
    one, many = (check_images(ImageFolder(tmp_path), make_params(workers=workers))[0] for workers in (1, 16))
    assert one.equals(many)


def test_what_ingestion_takes_the_policy_takes(tmp_path, make_params):
    """One limit for both: no image that was accepted stops sampling for its shape."""
    from fisao_pipeline.models.prompts import check_aspect_ratio

    root = tmp_path / "photos"
    root.mkdir()
    for name, size in (("long.png", (20 * MAX_ASPECT_RATIO, 20)), ("longer.png", (20 * MAX_ASPECT_RATIO + 1, 20))):
        Image.new("RGB", size).save(root / name)
    usable, refused = check_images(ImageFolder(root), make_params(max_rejected_share=0.9))
    assert list(usable["file_name"]) == ["long.png"]
    check_aspect_ratio((usable["width"][0], usable["height"][0]), "it")
    assert refused["reason"].tolist() == [
        "too narrow: 4001 x 20, the longer side may be 200 times the shorter one at most"
    ]
    with pytest.raises(ValueError, match="it is 4001 x 20 pixels"):
        check_aspect_ratio((4001, 20), "it")
