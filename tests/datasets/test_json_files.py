import pytest
from kedro.io import DatasetError

from fisao_pipeline.datasets.json_files import JsonFilesDataset


def test_no_path_loads_as_none():
    dataset = JsonFilesDataset(filepath=None)
    assert dataset.load() is None and dataset.exists()


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.json does not exist.*filepath: null"):
        JsonFilesDataset(filepath=str(tmp_path / "gone.json")).load()


def test_several_files_keep_their_order_and_names(tmp_path):
    for name, text in (("b.json", '{"x": 1}'), ("a.jsonl", '{"y": "\u2028"}\n\n{"y": 2}\n')):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
    loaded = JsonFilesDataset(filepath=[str(tmp_path / "b.json"), str(tmp_path / "a.jsonl")]).load()
    assert loaded == [("b.json", {"x": 1}), ("a.jsonl", [{"y": "\u2028"}, {"y": 2}])]


def test_paths_of_a_list_are_relative_to_the_project(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "x"\n')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.json").write_text("1")
    monkeypatch.chdir(tmp_path / "data")
    assert JsonFilesDataset(filepath=["data/a.json"]).load() == [("a.json", 1)]


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.json", b'{\n"x": }', "line 2, column 6"),
        ("a.jsonl", b'{"x": 1}\n{"x": 2}\n{"x"', "line 3, column 5"),
        ("a.json", b"", "line 1, column 1"),
        ("a.json", b"\xff\xfe\x00", "not UTF-8"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_json_is_located(tmp_path, name, content, where):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{name}.*{where}"):
        JsonFilesDataset(filepath=str(tmp_path / name)).load()


def test_save_writes_json_and_lines(tmp_path):
    for name, data in (("a.json", {"x": ["é"]}), ("b.jsonl", [{"x": 1}, {"x": "a\nb"}])):
        dataset = JsonFilesDataset(filepath=str(tmp_path / "new" / name))
        dataset.save(data)
        assert dataset.load() == [(name, data)]
    assert len((tmp_path / "new" / "b.jsonl").read_text().splitlines()) == 2


def test_a_user_s_file_is_replaced_only_where_the_catalog_says_so(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("1")
    with pytest.raises(DatasetError, match="left as it is"):
        JsonFilesDataset(filepath=str(path)).save(2)
    assert path.read_text() == "1"
    JsonFilesDataset(filepath=str(path), overwrite=True).save(2)
    assert path.read_text() == "2"


def test_a_failing_save_leaves_the_old_file(tmp_path):
    dataset = JsonFilesDataset(filepath=str(tmp_path / "a.json"), overwrite=True)
    dataset.save(1)
    with pytest.raises(DatasetError):
        dataset.save({"x": object()})
    assert dataset.load() == [("a.json", 1)] and [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("paths", [None, ["a.json", "b.json"]])
def test_save_needs_one_path(paths):
    with pytest.raises(DatasetError, match="exactly one"):
        JsonFilesDataset(filepath=paths).save(1)


def test_a_glimpse_shows_the_beginning(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2]")
    assert JsonFilesDataset(filepath=str(tmp_path / "a.json")).glimpse() == ["a.json", "[1, 2]"]
    (tmp_path / "b.jsonl").write_text("{}\n" * 10**6)
    assert len(JsonFilesDataset(filepath=str(tmp_path / "b.jsonl")).glimpse()) < 100
    assert JsonFilesDataset().glimpse() == ["No file: this input is left out."]
