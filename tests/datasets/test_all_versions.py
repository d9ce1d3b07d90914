"""Versions by name, the latest, and files of the same kind; what is none of these is said with what there is."""

import json

import pandas as pd
import pytest
from kedro.io import DatasetError
from kedro.io.core import Version

from fisao_pipeline.datasets import AllVersionsDataset, AtomicDataset

TABLE = pd.DataFrame({"image_id": ["1", "2"], "response": ["a dog", "ein Hund, größer"]})


@pytest.fixture
def versions(tmp_path):
    for number, name in enumerate(("2026-01-01", "2026-02-01")):
        folder = tmp_path / "predictions.parquet"
        dataset = AtomicDataset(filepath=str(folder), dataset="pandas.ParquetDataset", version=Version(None, name))
        dataset.save(TABLE.assign(number=number))
    (folder / "2026-01-01" / "provenance.json").write_text('{"git_commit": "abc"}')
    return AllVersionsDataset(filepath=str(folder)).load()


def test_a_version_by_its_name_with_its_provenance(versions):
    assert versions.versions() == ["2026-01-01", "2026-02-01"]
    found = versions.read("2026-01-01")
    assert found.source == "2026-01-01" and found.provenance == {"git_commit": "abc"}
    assert found.table["number"].tolist() == [0, 0]


def test_the_latest_is_told_by_its_name(versions):
    found = versions.read("latest")
    assert found.source == "2026-02-01" and found.table["number"].tolist() == [1, 1] and found.provenance is None


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".jsonl"])
def test_a_file(versions, tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    rows = TABLE.to_dict("records")
    if suffix == ".parquet":
        TABLE.to_parquet(path)
    else:
        text = json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows))
        path.write_text(text, encoding="utf-8")
    pd.testing.assert_frame_equal(versions.read(str(path)).table, TABLE)


def test_what_is_not_there(versions, tmp_path):
    told = r"'2026-02-02' is neither a version .*2026-01-01, 2026-02-01.*did you mean '2026-02-01'\? nor a file"
    with pytest.raises(DatasetError, match=told):
        versions.read("2026-02-02")
    with pytest.raises(DatasetError, match="there are none yet"):
        AllVersionsDataset(filepath=str(tmp_path / "none.parquet")).load().read("latest")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "image_id\n1\n", "is none of .parquet, .json"),
        ("a.json", '{"rows": 1}', "holds no list of rows"),
        ("a.json", "[1, 2]", "each an object: row 1"),
        ("a.json", "3", "holds no list of rows"),
        ("a.json", "[]", "holds no list of rows"),
        ("a.jsonl", '{"a": 1}\n{"a": ', "line 2"),
        ("a.parquet", "no parquet", "no Parquet file"),
    ],
)
def test_a_file_that_is_no_table(versions, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=message):
        versions.read(str(tmp_path / name))


def test_versions_are_not_written_through_it(tmp_path):
    with pytest.raises(DatasetError, match="written through the entry"):
        AllVersionsDataset(filepath=str(tmp_path / "p.parquet")).save(TABLE)
