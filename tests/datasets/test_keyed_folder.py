"""Values by key: each is there at once, whole or not at all."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from kedro.io import AbstractDataset, DatasetError

from fisao_pipeline.datasets import KeyedFolderDataset


def json_folder(path) -> KeyedFolderDataset:
    return KeyedFolderDataset(filepath=str(path / "rows"), dataset="json.JSONDataset", suffix=".json")


def test_a_value_is_there_at_once_and_for_the_next_process(tmp_path):
    values = json_folder(tmp_path).load()
    assert values.get("a-0") is None and values.keys() == []
    values.put("a-0", {"x": [1.5, None]})
    assert json.loads((tmp_path / "rows" / "a-0.json").read_text()) == {"x": [1.5, None]}
    assert json_folder(tmp_path).load().get("a-0") == {"x": [1.5, None]}
    values.put("a-0", {"x": []})
    values.put("b.1", 2)
    assert values.keys() == ["a-0", "b.1"] and values.get("a-0") == {"x": []}


def test_size_and_time_of_each_value(tmp_path, monkeypatch):
    values = json_folder(tmp_path).load()
    assert values.states() == {}
    values.put("a", "x")
    assert {key: state.st_size for key, state in values.states().items()} == {"a": 3}
    monkeypatch.setattr(values, "keys", lambda: ["a", "gone"])
    assert list(values.states()) == ["a"]


def test_a_value_is_removed(tmp_path):
    values = json_folder(tmp_path).load()
    values.put("a", 1)
    values.put("b", 2)
    values.remove("a")
    values.remove("never-there")
    assert values.keys() == ["b"] and values.get("a") is None
    with pytest.raises(DatasetError, match="no file name"):
        values.remove("../rows/b")


def test_tables_come_back_with_their_lists(tmp_path):
    dataset = KeyedFolderDataset(filepath=str(tmp_path), dataset="pandas.ParquetDataset", suffix=".parquet")
    table = pd.DataFrame({"token_ids": [[1, 2], []], "text": ["a", None]})
    dataset.load().put("t", table)
    found = dataset.load().get("t")
    assert found["token_ids"].tolist() == [[1, 2], []]
    assert found["text"].isna().tolist() == [False, True]


def test_a_value_that_cannot_be_written_leaves_the_one_before(tmp_path):
    values = json_folder(tmp_path).load()
    values.put("a", 1)
    with pytest.raises(DatasetError):
        values.put("a", {"x": float("nan")})
    with pytest.raises(DatasetError):
        values.put("a", {"x": object()})
    assert values.get("a") == 1
    assert [path.name for path in (tmp_path / "rows").iterdir()] == ["a.json"]


def test_what_a_killed_write_left_is_no_value(tmp_path):
    values = json_folder(tmp_path).load()
    staging = tmp_path / "rows" / ".staging-a.json-0123"
    staging.mkdir(parents=True)
    (staging / "a.json").write_text('{"x": ')
    assert values.keys() == [] and values.get("a") is None


@pytest.mark.parametrize("key", ["", "../a", "a/b", ".hidden", "a b"])
def test_a_key_that_is_no_file_name_is_refused(tmp_path, key):
    values = json_folder(tmp_path).load()
    with pytest.raises(DatasetError, match="no file name"):
        values.put(key, 1)
    with pytest.raises(DatasetError, match="no file name"):
        values.get(key)


def test_as_a_catalog_entry(tmp_path):
    config = {
        "type": "fisao_pipeline.datasets.KeyedFolderDataset",
        "dataset": "json.JSONDataset",
        "suffix": ".json",
        "filepath": str(tmp_path / "rows"),
        "metadata": {"kedro-viz": {"layer": "model_output"}},
    }
    dataset = AbstractDataset.from_config("study_rows", config)
    assert not dataset.exists()
    dataset.load().put("k", 1)
    assert dataset.exists()
    assert dataset.glimpse() == ["1 values by key", "k"]
    with pytest.raises(DatasetError, match="make it a node's input"):
        dataset.save({"k": 1})


@pytest.mark.parametrize("change", [{"suffix": "json"}, {"filepath": "s3://bucket/x"}, {"dataset": "no.SuchDataset"}])
def test_a_wrong_definition_is_refused_before_anything_runs(tmp_path, change):
    definition = {"filepath": str(tmp_path), "dataset": "json.JSONDataset", "suffix": ".json", **change}
    with pytest.raises(DatasetError):
        KeyedFolderDataset(**definition)


HOLD = """
import sys
from pathlib import Path
from fisao_pipeline.datasets.keyed_folder import KeyedFolder
with KeyedFolder(Path(sys.argv[1]), ".json", "json.JSONDataset").claim("a") as ours:
    print(ours, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other_process(tmp_path):
    """A process that has the claim of key "a" until its input ends or it is killed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "rows")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
@pytest.mark.parametrize("end", ["finishes", "is killed"])
def test_a_claim_keeps_other_processes_off_until_its_own_ends(tmp_path, other_process, end):
    values = json_folder(tmp_path).load()
    with values.claim("a") as ours, values.claim("b") as another:
        assert (ours, another) == (False, True)
    assert values.keys() == [], "a claim is no value"
    if end == "finishes":
        other_process.communicate("\n")
    else:
        other_process.kill()
        other_process.wait()
    with values.claim("a") as ours:
        assert ours
    with values.claim("a", wait=True) as ours:
        assert ours
    assert list((tmp_path / "rows").iterdir()) == [], "nothing is left behind"


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_waiting_for_a_claim_ends_with_the_process_that_has_it(tmp_path, other_process):
    values = json_folder(tmp_path).load()
    other_process.stdin.write("\n")
    other_process.stdin.flush()
    with values.claim("a", wait=True) as ours:
        assert ours


def test_a_claim_is_let_go_when_its_work_fails(tmp_path):
    values = json_folder(tmp_path).load()
    with pytest.raises(FloatingPointError), values.claim("a"):
        raise FloatingPointError
    with values.claim("a") as ours:
        assert ours
    with pytest.raises(DatasetError, match="no file name"), values.claim("../a"):
        pass
