"""What is remembered of files."""

import os
import sqlite3

import pytest

from fisao_pipeline.artifacts.file_memory import MEMORY_FILE, FileMemory


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    return folder


class Counting:
    def __init__(self):
        self.calls = 0

    def __call__(self, path):
        self.calls += 1
        return path.read_text()


def look(data, work_out, recheck=False):
    memory = FileMemory(data, recheck)
    value = memory.of("text", data / "a.txt", work_out)
    memory.keep()
    return value


def test_a_file_is_read_once(data):
    work_out = Counting()
    assert look(data, work_out) == look(data, work_out) == "one"
    assert work_out.calls == 1


def test_a_changed_file_is_read_again(data):
    work_out = Counting()
    look(data, work_out)
    (data / "a.txt").write_text("three")
    assert look(data, work_out) == "three"
    os.utime(data / "a.txt", ns=(1, 1))
    look(data, work_out)
    assert work_out.calls == 3


def test_each_kind_is_a_memory_of_its_own(data):
    memory = FileMemory(data)
    assert memory.of("text", data / "a.txt", lambda path: "this") == "this"
    assert memory.of("other", data / "a.txt", lambda path: "that") == "that"


def test_rechecking_reads_once_and_remembers_that(data):
    look(data, lambda path: "wrong")
    work_out = Counting()
    memory = FileMemory(data, recheck=True)
    assert [memory.of("text", data / "a.txt", work_out) for _ in range(2)] == ["one", "one"]
    memory.keep()
    assert work_out.calls == 1
    assert look(data, work_out) == "one" and work_out.calls == 1


def test_a_folder_that_was_moved_is_still_known(data):
    work_out = Counting()
    look(data, work_out)
    moved = data.rename(data.with_name("moved"))
    assert look(moved, work_out) == "one"
    assert work_out.calls == 1


def test_a_file_outside_is_known_by_its_path(data, tmp_path):
    (tmp_path / "a.txt").write_text("outside")
    assert look(data, Counting()) == "one"
    memory = FileMemory(data)
    assert memory.of("text", tmp_path / "a.txt", Counting()) == "outside"


def test_without_a_database_all_is_worked_out(data):
    (data / MEMORY_FILE).parent.mkdir()
    (data / MEMORY_FILE).write_text("no database at all" * 100)
    work_out = Counting()
    assert look(data, work_out) == look(data, work_out) == "one"
    assert work_out.calls == 2


def test_the_sha256_is_the_usual_one(data):
    assert FileMemory(data).sha256(data / "a.txt").startswith("7692c3ad3540bb803c020b3aee66cd88")


def test_two_processes_write_into_one_database(data):
    first, second = FileMemory(data), FileMemory(data)
    first.of("x", data / "a.txt", lambda path: "1")
    second.of("y", data / "a.txt", lambda path: "2")
    first.keep()
    second.keep()
    rows = sqlite3.connect(data / MEMORY_FILE).execute("SELECT kind, value FROM remembered ORDER BY kind").fetchall()
    assert rows == [("x", "1"), ("y", "2")]
