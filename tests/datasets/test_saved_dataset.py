import io
import json

import pyarrow as pa
import pytest
from kedro.io import DatasetError
from PIL import Image

from fisao_pipeline.datasets.image_decoding import UnreadableImageError
from fisao_pipeline.datasets.saved_dataset import SavedImagesDataset, SavedPromptsDataset


def png(number):
    stream = io.BytesIO()
    Image.new("RGB", (20 + number, 20), (number, 0, 0)).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": f"/somewhere/{number}.png"}


def save(folder, columns, shards=1):
    """What `Dataset.save_to_disk` of datasets 4 and 5 writes: Arrow streams and a list of them."""
    folder.mkdir(parents=True)
    table = pa.table(columns)
    size = -(-table.num_rows // shards)
    names = []
    for shard in range(shards):
        names.append(f"data-{shard:05d}-of-{shards:05d}.arrow")
        with pa.OSFile(str(folder / names[-1]), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(shard * size, size), max_chunksize=1)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "x", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "saved"


@pytest.fixture
def splits(root):
    save(root / "train", {"image": [png(0), png(1), png(2)], "question": ["a", "b", "c"], "id": [7, 8, 9]}, shards=2)
    save(root / "validation", {"image": [png(3), png(0)], "question": ["d", None], "id": [7, 6]})
    (root / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    return root


def test_images_of_all_splits_and_shards_by_number(splits):
    images = SavedImagesDataset(filepath=str(splits)).load()
    names = ["train/00000000", "train/00000001", "train/00000002", "validation/00000000", "validation/00000001"]
    assert images.files() == names and images.root == splits
    checks = [images.check(name) for name in names]
    assert [check.width for check in checks] == [20, 21, 22, 23, 20] and {check.reason for check in checks} == {None}
    assert checks[0] == checks[4] and len({check.sha256 for check in checks}) == 4
    assert images.open("train/00000002").getpixel((0, 0)) == (2, 0, 0)


def test_names_and_prompts_come_from_columns(splits):
    images = SavedImagesDataset(filepath=str(splits), name_column="id").load()
    assert images.files() == ["train/7", "train/8", "train/9", "validation/6", "validation/7"]
    (prompts,) = SavedPromptsDataset(filepath=str(splits), prompt_column="question", name_column="id").load()
    assert prompts.name == "saved" and len(prompts.content) == 5
    assert list(prompts.content)[:2] == [
        {"prompt_id": "train/7", "image": "train/7", "prompt": "a"},
        {"prompt_id": "train/8", "image": "train/8", "prompt": "b"},
    ]
    assert list(prompts.content)[4]["prompt"] is None and list(prompts.content) == list(prompts.content)


def test_conversations_are_passed_on_as_such(root):
    turns = [[{"from": "human", "value": "<image>\nWhat?"}]]
    save(root, {"image": [png(0)], "conversations": turns})
    (prompts,) = SavedPromptsDataset(filepath=str(root), prompt_column="conversations").load()
    assert list(prompts.content) == [{"prompt_id": "00000000", "image": "00000000", "conversations": turns[0]}]


def test_rows_that_hold_no_image_are_refused_one_by_one(root):
    rows = [png(0), None, {"bytes": None, "path": "/etc/passwd"}, {"bytes": b"", "path": None}, {"bytes": b"x"}]
    cut = {"bytes": png(1)["bytes"][:60], "path": None}
    save(root, {"image": [*rows, cut]})
    images = SavedImagesDataset(filepath=str(root)).load()
    reasons = [images.check(name).reason for name in images.files()]
    assert [reason and reason.split(":")[0] for reason in reasons] == [
        None,
        "empty row",
        "image not in the data set",
        "empty file",
        "not a readable image",
        "truncated or corrupt",
    ]
    with pytest.raises(UnreadableImageError, match="no such row"):
        images.open("../00000000")
    with pytest.raises(UnreadableImageError, match="00000001: empty row"):
        images.open("00000001")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_column": "picture"}, r"has no column 'picture', it has image, question, id"),
        ({"image_column": "question"}, r"column 'question' holds string, no images.*image_column"),
        ({"name_column": "question"}, r"holds 'None', which is no relative name"),
    ],
)
def test_wrong_columns_are_named(splits, arguments, message):
    with pytest.raises(DatasetError, match=message):
        SavedImagesDataset(filepath=str(splits), **arguments).load().files()


@pytest.mark.parametrize("name", ["..", "a/../b", "/a", "a//b", "a\0b", ""])
def test_names_that_leave_the_folder_are_refused(root, name):
    save(root, {"image": [png(0)], "name": [name]})
    with pytest.raises(DatasetError, match="no relative name"):
        SavedImagesDataset(filepath=str(root), name_column="name").load().files()


def test_two_rows_of_one_name_are_an_error(root):
    save(root, {"image": [png(0), png(1)], "name": ["a", "a"]})
    with pytest.raises(DatasetError, match=r"two rows are named 'a'.*name_column"):
        SavedImagesDataset(filepath=str(root), name_column="name").load().files()


def test_a_column_of_numbers_is_no_column_of_prompts(splits):
    with pytest.raises(DatasetError, match="holds int64, no texts"):
        SavedPromptsDataset(filepath=str(splits), prompt_column="id").load()


def test_damaged_data_sets_are_named(splits):
    arrow = splits / "train" / "data-00000-of-00002.arrow"
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"data-00000-of-00002\.arrow cannot be read as an Arrow stream"):
        SavedImagesDataset(filepath=str(splits)).load()
    (splits / "train" / "state.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"state\.json is damaged"):
        SavedImagesDataset(filepath=str(splits)).load()
    (splits / "train" / "state.json").unlink()
    with pytest.raises(DatasetError, match=r"is no data set saved with `save_to_disk`"):
        SavedImagesDataset(filepath=str(splits)).load()


@pytest.mark.parametrize("name", ["../other", "/etc", "..", "train/.."])
def test_splits_and_files_stay_inside_the_folder(splits, name):
    save(splits.parent / "other", {"image": [png(0)]})
    (splits / "dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    with pytest.raises(DatasetError, match="is no entry of this folder"):
        SavedImagesDataset(filepath=str(splits)).load()


def test_a_split_that_is_a_link_to_the_outside_is_refused(splits):
    save(splits.parent / "other", {"image": [png(0)]})
    (splits / "linked").symlink_to(splits.parent / "other")
    (splits / "dataset_dict.json").write_text('{"splits": ["linked"]}')
    with pytest.raises(DatasetError, match="is no entry of this folder"):
        SavedImagesDataset(filepath=str(splits)).load()


def test_what_is_not_there_is_said_with_the_remedy_and_nothing_is_written(root):
    dataset = SavedImagesDataset(filepath=str(root))
    assert not dataset.exists()
    with pytest.raises(DatasetError, match=r"does not exist.*save_to_disk"):
        dataset.load()
    with pytest.raises(DatasetError):
        dataset.save(None)
