import os
import threading

import pytest
from kedro.io import DatasetError
from PIL import Image

from fisao_pipeline.datasets.image_decoding import UnreadableImageError
from fisao_pipeline.datasets.image_folder import ImageFolder, ImageFolderDataset

RED = Image.new("RGB", (20, 20), "red")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "photos"
    (root / "nested").mkdir(parents=True)
    RED.save(root / "b.png")
    RED.save(root / "nested" / "a.jpg")
    return root


def test_files_are_sorted_relative_posix_paths(root):
    assert ImageFolder(root).files() == ["b.png", "nested/a.jpg"]


def test_hidden_files_and_sidecars_are_no_candidates_but_any_other_file_is(root):
    (root / ".git").mkdir()
    for name in (".DS_Store", ".git/x.png", "Thumbs.db", "labels.json", "notes.TXT", "program.exe", "noextension"):
        (root / name).write_text("x")
    assert ImageFolder(root).files() == ["b.png", "nested/a.jpg", "noextension", "program.exe"]


@pytest.mark.parametrize("name", ["../secret.png", "nested/../../secret.png", "nested/../b.png", "", "a\0b"])
def test_names_that_leave_the_folder_are_refused(root, name):
    RED.save(root.parent / "secret.png")
    with pytest.raises(UnreadableImageError, match="leaves the image folder"):
        ImageFolder(root).open(name)


def test_absolute_names_are_refused_even_inside_the_folder(root):
    with pytest.raises(UnreadableImageError, match="leaves the image folder"):
        ImageFolder(root).open(str(root / "b.png"))


def test_links_are_followed_inside_the_folder_only(root):
    RED.save(root.parent / "secret.png")
    (root / "out.png").symlink_to(root.parent / "secret.png")
    (root / "in.png").symlink_to(root / "b.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "broken.png").symlink_to(root / "nowhere.png")
    (root / "folder").symlink_to(root / "nested")
    folder = ImageFolder(root)
    reasons = {name: folder.check(name).reason for name in folder.files()}
    assert reasons["in.png"] is None
    assert "link to the outside" in reasons["out.png"]
    assert all("not a regular file" in reasons[name] for name in ("loop.png", "broken.png", "folder"))


def test_a_root_that_is_a_link_works(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert ImageFolder(tmp_path / "link").open("b.png").size == (20, 20)


def test_a_pipe_is_refused_instead_of_waited_for(root):
    os.mkfifo(root / "pipe.jpg")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(ImageFolder(root).check("pipe.jpg")), daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert answers and "not a regular file" in answers[0].reason


def test_check_hashes_bytes_and_reports_sizes(root):
    (root / "copy.png").write_bytes((root / "b.png").read_bytes())
    folder = ImageFolder(root)
    one, other = folder.check("b.png"), folder.check("copy.png")
    assert one == other and (one.width, one.height, one.encoding, one.reason) == (20, 20, "PNG", None)
    assert folder.check("nested/a.jpg").sha256 != one.sha256


def test_an_unreadable_image_is_named_by_open_and_not_by_the_reason(root):
    (root / "empty.jpg").touch()
    folder = ImageFolder(root)
    assert folder.check("empty.jpg").reason.startswith("empty file")
    with pytest.raises(UnreadableImageError, match=r"^empty.jpg: empty file"):
        folder.open("empty.jpg")


def test_a_missing_folder_says_how_to_get_one(tmp_path):
    with pytest.raises(DatasetError, match=r"photos does not exist.*image_folder.filepath.*real_models\.md") as error:
        ImageFolderDataset(filepath=str(tmp_path / "photos")).load()
    assert "pocket" not in str(error.value).removeprefix(f"Image folder {tmp_path}")
    with pytest.raises(DatasetError, match=r"images does not exist.*--tags=scenes.*renders.*image_folder.filepath"):
        ImageFolderDataset(filepath=str(tmp_path / "pocket_scenes" / "images")).load()


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "photos").touch()
    with pytest.raises(DatasetError, match="is a file, not a folder"):
        ImageFolderDataset(filepath=str(tmp_path / "photos")).load()


def test_save_and_load_round_trip_and_replace(tmp_path):
    dataset = ImageFolderDataset(filepath=str(tmp_path / "deep" / "scenes"))
    assert not dataset.exists()
    dataset.save([("one.png", RED), ("sub/two.png", Image.new("RGB", (5, 5)))])
    assert dataset.load().files() == ["one.png", "sub/two.png"]
    assert dataset.load().open("one.png").tobytes() == RED.tobytes()
    encoded = (tmp_path / "deep" / "scenes" / "one.png").read_bytes()
    dataset.save(iter([("three.png", encoded)]))
    assert dataset.exists() and dataset.load().files() == ["three.png"]
    assert os.listdir(tmp_path / "deep") == ["scenes"]


def test_a_failing_save_leaves_the_old_folder(tmp_path):
    dataset = ImageFolderDataset(filepath=str(tmp_path / "scenes"))
    dataset.save([("one.png", RED)])

    def broken():
        yield "two.png", RED
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.save(broken())
    assert dataset.load().files() == ["one.png"]
    assert os.listdir(tmp_path) == ["scenes"]


def test_photos_of_a_user_are_never_replaced(root):
    with pytest.raises(DatasetError, match="not written by this pipeline"):
        ImageFolderDataset(filepath=str(root)).save([("one.png", RED)])
    assert ImageFolder(root).files() == ["b.png", "nested/a.jpg"]


@pytest.mark.parametrize("name", ["../out.png", "/out.png", ""])
def test_save_refuses_names_that_leave_the_folder(tmp_path, name):
    with pytest.raises(DatasetError, match="leaves the image folder"):
        ImageFolderDataset(filepath=str(tmp_path / "scenes")).save([(name, RED)])
    assert os.listdir(tmp_path) == []
