"""A disk that does not take an artifact: a message with path and remedy, and everything as it was before."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from kedro.io import DatasetError, Version

from fisao_pipeline.datasets import AdapterArtifact, AdapterFolderDataset, AtomicDataset, KeyedFolder
from fisao_pipeline.datasets.write_errors import write_failure
from fisao_pipeline.models.tensor_file import TensorFile

MANY = torch.arange(40_000, dtype=torch.float32)
NUMBERS = {errno.ENOSPC: "free some space", errno.EROFS: "mount it writable", errno.EIO: "system's log"}


@contextmanager
def files_no_larger_than(count: int) -> Iterator[None]:
    """The system itself refuses what comes after so many bytes of a file, in whichever language it is written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def adapter(folder: Path, version: str):
    AdapterFolderDataset(filepath=str(folder / "thing"), version=Version(None, version)).save(
        AdapterArtifact({"r": 1}, {"lora": MANY})
    )


def table(folder: Path, version: str):
    dataset = AtomicDataset(
        filepath=str(folder / "thing"), dataset="pandas.ParquetDataset", version=Version(None, version)
    )
    dataset.save(pd.DataFrame({"a": MANY.numpy()}))


def text(folder: Path, version: str):
    dataset = AtomicDataset(filepath=str(folder / "thing"), dataset="json.JSONDataset", version=Version(None, version))
    dataset.save(MANY.tolist())


def keyed(folder: Path, key: str):
    definition = "fisao_pipeline.datasets.TensorFileDataset"
    KeyedFolder(folder / "thing", ".safetensors", definition).put(key, TensorFile({"a": MANY}, {}))


SAVES = {"adapter": adapter, "parquet": table, "json": text, "checkpoint": keyed}


def snapshot(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_a_file_that_the_system_cuts_off_is_no_version(tmp_path, save: Callable):
    save(tmp_path, "v1")
    before = snapshot(tmp_path)
    for size in (0, 20_000, 150_000):
        with files_no_larger_than(size), pytest.raises(DatasetError) as caught:
            save(tmp_path, "v2")
        message = str(caught.value)
        assert str(tmp_path / "thing") in message, message
        assert "File too large. To go on, raise the limit on the size of files" in message, message
        assert "What was there is untouched" in message
        assert snapshot(tmp_path) == before
    save(tmp_path, "v2")
    assert len(snapshot(tmp_path)) == 2 * len(before)


@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename", "replace"])
@pytest.mark.parametrize(("number", "remedy"), NUMBERS.items())
@pytest.mark.parametrize("save", [table, keyed], ids=["version", "in place"])
def test_a_disk_that_fails_says_where_and_what_to_do(tmp_path, monkeypatch, save, call, number, remedy):
    save(tmp_path, "v1")
    before = snapshot(tmp_path)

    def fails(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fails)
    if (save, call) in {(table, "replace"), (keyed, "rename")}:
        save(tmp_path, "v2")  # which does not need it
        return
    with pytest.raises(DatasetError) as caught:
        save(tmp_path, "v2")
    monkeypatch.undo()
    message = str(caught.value)
    assert str(tmp_path / "thing") in message and os.strerror(number) in message and remedy in message, message
    assert "run the same command again" in message
    assert snapshot(tmp_path) == before


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    """The parent is not there yet and cannot be made."""

    def refused(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "mkdir", refused)
    with pytest.raises(DatasetError, match=r"Permission denied\. To go on, give this user the right to write there"):
        table(tmp_path / "new", "v1")


def test_an_error_of_another_kind_is_left_as_it_is(tmp_path):
    dataset = AtomicDataset(
        filepath=str(tmp_path / "thing.json"), dataset="json.JSONDataset", version=Version(None, "v1")
    )
    with pytest.raises(DatasetError) as caught:
        dataset.save({"a": float("nan")})
    assert "JSON cannot hold" in str(caught.value) and "untouched" not in str(caught.value)
    assert write_failure(ValueError("the answer is 42"), tmp_path) is None


def test_the_room_that_is_left_is_named(tmp_path):
    found = write_failure(OSError(errno.ENOSPC, "no room"), tmp_path / "not" / "there")
    assert "No space left on device (" in found and "MiB are free)" in found
