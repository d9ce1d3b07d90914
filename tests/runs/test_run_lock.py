"""Two runs in one data folder, seen through processes of their own."""

import os
import signal
import subprocess
import sys

import pytest
from tests.runs.test_session import start

from fisao_pipeline.datasets.locks import lock_file
from fisao_pipeline.runs.run_lock import LOCK_FILE, FolderInUseError, RunLock

HOLD = """
import sys, time
from pathlib import Path
from fisao_pipeline.runs.run_lock import RunLock
held = RunLock(Path(sys.argv[1])).acquire(shared=sys.argv[2] == "shared")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path):
    """Starts a process that holds the lock of `tmp_path`."""
    processes = []

    def begin(how: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), how, "https://me:hunter2@example.org"],
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert "held\n" in iter(process.stdout.readline, "")  # after what Kedro logs at its import
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_a_second_run_is_refused_with_the_name_of_the_first(tmp_path, hold):
    process = hold("alone")
    with pytest.raises(FolderInUseError) as refusal:
        RunLock(tmp_path).acquire()
    for word in (f"process {process.pid} on ", "since 20", "-c ", str(tmp_path), "globals.yml"):
        assert word in refusal.value.message
    assert "hunter2" not in (tmp_path / LOCK_FILE).read_text() + refusal.value.message
    with pytest.raises(FolderInUseError):
        RunLock(tmp_path).acquire(shared=True)


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path, hold):
    process = hold("alone")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / LOCK_FILE).read_text(), "what it wrote is still there, and means nothing"
    with RunLock(tmp_path).acquire():
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()} "):
            RunLock(tmp_path).acquire()
    RunLock(tmp_path).acquire().close()


def test_those_that_share_keep_others_out_until_the_last_has_ended(tmp_path, hold):
    first = hold("shared")
    with RunLock(tmp_path).acquire(shared=True):
        with pytest.raises(FolderInUseError):
            RunLock(tmp_path).acquire()
    with pytest.raises(FolderInUseError):
        RunLock(tmp_path).acquire()
    first.kill()
    first.wait()
    RunLock(tmp_path).acquire().close()


def test_a_holder_that_has_not_said_its_name_is_refused_all_the_same(tmp_path):
    (tmp_path / LOCK_FILE).parent.mkdir()
    descriptor = lock_file(tmp_path / LOCK_FILE)
    with pytest.raises(FolderInUseError, match="a process that has not said its name"):
        RunLock(tmp_path).acquire()
    os.close(descriptor)


def test_a_folder_that_cannot_be_locked_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("fisao_pipeline.datasets.locks.fcntl", None)
    RunLock(tmp_path).acquire().close()
    assert "do not start a second run in it" in caplog.text


def test_on_the_command_line(toy_project):
    project = toy_project()
    nodes = next(project.glob("src/*/nodes.py"))
    nodes.write_text(nodes.read_text().replace("time.sleep(60)", "time.sleep(600)"))
    running = start(project)
    second = subprocess.run(
        [sys.executable, "-m", "kedro", "run"], cwd=project, capture_output=True, text=True, check=False
    )
    running.kill()
    running.communicate()
    assert second.returncode == 1
    said = " ".join((second.stdout + second.stderr).split())
    assert f"Error: Nothing was run: another run is at work in '{project / 'data'}' (process {running.pid} on " in said
    assert "kedro run --pipelines=toy --params=behaviour=wait" in said
    assert "Traceback" not in said


def test_studies_share_their_folder_and_nothing_else_does():
    from fisao_pipeline.datasets.locks import SHARES_FOLDER
    from fisao_pipeline.pipeline_registry import register_pipelines

    sharing = {
        name
        for name, pipeline in register_pipelines().items()
        if all(SHARES_FOLDER in node.tags for node in pipeline.nodes)
    }
    assert sharing == {"ablation", "seed_study"}
