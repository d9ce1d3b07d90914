"""Atomic saves: whatever stops a save, the version before it stays the latest."""

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from kedro.io import AbstractDataset, DataCatalog, DatasetError, Version

from fisao_pipeline.datasets import AtomicDataset


def dataset(folder: Path, kind: str = "json.JSONDataset", name: str = "data.json", save="v1", load=None, **options):
    version = Version(load, save) if save else None
    return AtomicDataset(filepath=str(folder / name), dataset={"type": kind, **options}, version=version)


def table(folder: Path, save="v1"):
    return dataset(folder, "pandas.ParquetDataset", "table.parquet", save)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_of_versions(tmp_path):
    dataset(tmp_path, save="v1").save({"n": 1})
    dataset(tmp_path, save="v2").save({"n": 2})
    assert dataset(tmp_path).load() == {"n": 2}
    assert dataset(tmp_path, load="v1").load() == {"n": 1}
    assert dataset(tmp_path).list_versions(full_path=False) == ["v2", "v1"]
    assert names_in(tmp_path / "data.json") == ["v1", "v2"]


def test_without_versions_the_file_is_replaced(tmp_path):
    for number in (1, 2):
        dataset(tmp_path, save=None).save({"n": number})
    assert dataset(tmp_path, save=None).load() == {"n": 2}
    assert names_in(tmp_path) == ["data.json"]


def test_a_version_is_never_overwritten(tmp_path):
    dataset(tmp_path).save({"n": 1})
    with pytest.raises(DatasetError, match="must not exist"):
        dataset(tmp_path).save({"n": 2})
    assert dataset(tmp_path).load() == {"n": 1}


def test_loading_what_was_never_saved_names_the_file(tmp_path):
    with pytest.raises(DatasetError, match="Did not find any versions"):
        dataset(tmp_path).load()
    with pytest.raises(DatasetError, match=r"data\.json' does not exist"):
        dataset(tmp_path, save=None).load()
    assert not dataset(tmp_path).exists()
    assert not dataset(tmp_path, save=None).exists()


def test_lists_numbers_and_missing_values_survive_parquet(tmp_path):
    rows = {
        "response_id": ["a", "b", "c"],
        "token_ids": [[1, 2, 3], [], [7]],
        "logprobs": [[-0.5, -1.25], [], [0.0]],
        "objects": [["dog", "fire hydrant"], None, []],
        "nested": [[[1], [2, 3]], [], None],
        "count": [1, 2, 3],
    }
    table(tmp_path).save(pd.DataFrame(rows))
    loaded = table(tmp_path).load()
    for name, values in rows.items():
        assert loaded[name].tolist() == values, name
    assert all(type(cell) is list for cell in loaded["token_ids"])


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"base": {"chair_i": float("nan")}}, "data.json: base.chair_i is nan"),
        ({"rounds": [1.0, float("inf")]}, r"data.json: rounds\[1\] is inf"),
        ({"numpy": np.float64("nan")}, "data.json: numpy is nan"),
    ],
)
def test_numbers_that_json_cannot_hold_are_named(tmp_path, content, place):
    with pytest.raises(DatasetError, match=place):
        dataset(tmp_path).save(content)
    assert not dataset(tmp_path).exists()


def test_a_save_that_raises_half_way_leaves_nothing(tmp_path):
    dataset(tmp_path, save="v1").save({"n": 1})
    with pytest.raises(DatasetError, match="not JSON serializable"):
        dataset(tmp_path, save="v2").save({"n": 2, "bad": object()})
    assert dataset(tmp_path).load() == {"n": 1}
    assert names_in(tmp_path / "data.json") == ["v1"]


def test_a_full_disk_leaves_the_version_before(tmp_path):
    table(tmp_path, save="v1").save(pd.DataFrame({"x": [1]}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DatasetError):
            table(tmp_path, save="v2").save(pd.DataFrame({"x": np.random.default_rng(0).random(100_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert table(tmp_path).load()["x"].tolist() == [1]
    assert names_in(tmp_path / "table.parquet") == ["v1"]


KILLED_SAVE = """
    import sys, time
    from pathlib import Path
    from kedro.io import Version
    from fisao_pipeline.datasets import AtomicDataset

    class Slow(dict):
        def items(self):
            for number in range(200_000):
                yield str(number), "x" * 20
            Path(sys.argv[1], "writing").touch()
            time.sleep(60)

    version = Version(None, "v2") if sys.argv[2] == "versioned" else None
    dataset = AtomicDataset(filepath=sys.argv[1] + "/data.json", dataset="json.JSONDataset", version=version)
    dataset._write = lambda data, path: path.write_text("half of it") and dataset._wrapped(path).save(data)
    dataset.save(Slow(a=1))
"""


@pytest.mark.parametrize("versioned", [True, False])
def test_kill_9_in_the_middle_of_a_save(tmp_path, versioned):
    dataset(tmp_path, save="v1" if versioned else None).save({"n": 1})
    command = [sys.executable, "-c", textwrap.dedent(KILLED_SAVE), str(tmp_path), "versioned" if versioned else "plain"]
    process = subprocess.Popen(command)
    while not (tmp_path / "writing").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    leftovers = list(tmp_path.rglob(".staging-*"))
    assert leftovers, "the save was to be killed while it wrote"
    assert dataset(tmp_path, save="v2" if versioned else None).load() == {"n": 1}
    # Hidden names are matched by fsspec's glob, which other tools use.
    matched = fsspec.filesystem("file").glob(str(tmp_path / "data.json" / "*" / "data.json"))
    assert [Path(path).parent.name for path in matched] == (["v1"] if versioned else [])

    dataset(tmp_path, save="v3" if versioned else None).save({"n": 3})
    assert leftovers[0].exists(), "a young one may belong to a save that is still running"
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(leftovers[0], (two_days_ago, two_days_ago))
    dataset(tmp_path, save="v4" if versioned else None).save({"n": 4})
    assert not leftovers[0].exists()
    assert dataset(tmp_path, save="v5" if versioned else None).load() == {"n": 4}


def test_of_concurrent_saves_of_one_version_one_wins_whole(tmp_path):
    errors, barrier = [], threading.Barrier(8)

    def save(number):
        one = dataset(tmp_path)
        barrier.wait()
        try:
            one.save({"n": [number] * 1000})
        except DatasetError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 7
    assert all("exist" in error for error in errors), errors
    numbers = dataset(tmp_path).load()["n"]
    assert len(numbers) == 1000
    assert len(set(numbers)) == 1
    assert names_in(tmp_path / "data.json") == ["v1"]


def test_from_a_catalog_with_pinned_versions(tmp_path):
    config = {
        "table": {
            "type": "fisao_pipeline.datasets.AtomicDataset",
            "dataset": "pandas.ParquetDataset",
            "filepath": str(tmp_path / "table.parquet"),
            "versioned": True,
        }
    }
    for version in ("v1", "v2"):
        DataCatalog.from_config(config, save_version=version).save("table", pd.DataFrame({"v": [version]}))
    assert DataCatalog.from_config(config).load("table")["v"].tolist() == ["v2"]
    assert DataCatalog.from_config(config, load_versions={"table": "v1"}).load("table")["v"].tolist() == ["v1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "pandas.NoSuchDataset"}, "NoSuchDataset"),
        ({"dataset": {"type": "json.JSONDataset", "filepath": "elsewhere"}}, "beside 'dataset'"),
        ({"dataset": "json.JSONDataset", "filepath": "s3://bucket/data.json"}, "not local"),
    ],
)
def test_a_wrong_definition_fails_before_any_data(tmp_path, options, message):
    config = {"type": "fisao_pipeline.datasets.AtomicDataset", "filepath": str(tmp_path / "x.json"), **options}
    with pytest.raises(DatasetError, match=message):
        AbstractDataset.from_config("x", config)


def test_a_glimpse_shows_the_first_rows_of_a_table(tmp_path):
    one = table(tmp_path)
    one.save(pd.DataFrame({"id": list("abcdefg"), "x": [float("nan")] * 7, "token_ids": [list(range(500))] * 7}))
    first, *columns = one.glimpse()
    assert first == "first 3 of 7 rows, a line for each column:"
    assert columns[:2] == ["id: a │ b │ c", "x: null │ null │ null"]
    assert columns[2].startswith("token_ids: [0, 1, 2") and len(columns[2]) < 3 * 60
    one = table(tmp_path / "empty")
    one.save(pd.DataFrame({"id": []}))
    assert one.glimpse() == ["first 0 of 0 rows, a line for each column:", "id: "]


def test_a_glimpse_of_json_and_text_ends_somewhere(tmp_path):
    one = dataset(tmp_path)
    one.save({"chair_i": 0.1})
    assert json.loads("".join(one.glimpse())) == {"chair_i": 0.1}
    long = dataset(tmp_path, "text.TextDataset", "long.md")
    long.save("x" * 10**6 + "\n" * 10**4)
    assert sum(map(len, long.glimpse())) < 10**4 and long.glimpse()[-1] == "…"


def test_pictures_are_known_as_such(tmp_path):
    kinds = {"plotly.JSONDataset": "PlotlyPreview", "matplotlib.MatplotlibDataset": "ImagePreview"}
    for kind in ("json.JSONDataset", "pandas.ParquetDataset", "text.TextDataset", "pickle.PickleDataset", *kinds):
        assert dataset(tmp_path, kind, "x.y").drawn_as == kinds.get(kind, "")
