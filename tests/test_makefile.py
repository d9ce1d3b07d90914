"""What the Makefile's targets start, tried with programs that stand in for the real ones."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


def stand_in(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def binaries(tmp_path) -> Path:
    """`bin` of a virtual environment, empty, in a folder that has the Makefile and counts as installed."""
    (tmp_path / ".ci").mkdir()
    for name in ("Makefile", "pyproject.toml", ".ci/constraints.txt"):
        shutil.copy(PROJECT / name, tmp_path / name)
    made = tmp_path / ".venv" / "bin"
    made.mkdir(parents=True)
    (tmp_path / ".venv" / ".installed").touch()
    return made


def make(target: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    return subprocess.run(["make", target], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_mlflow_is_found_where_the_environment_is_not_activated(tmp_path, binaries):
    stand_in(binaries / "kedro", 'exec "$1" started by its name')
    stand_in(binaries / "mlflow", 'echo "this mlflow: $*"')
    done = make("mlflow", tmp_path)
    assert "this mlflow: started by its name" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("status", "has_table"), [(0, True), (1, True), (2, False)])
def test_the_benchmarks_table_is_written_though_one_of_them_fails(tmp_path, binaries, status, has_table):
    """Status 1 is pytest's for tests that failed, 2 for a run that was interrupted."""
    for stamp in (".installed-dev", ".installed-bench"):
        (tmp_path / ".venv" / stamp).touch()
    scenes = tmp_path / "data" / "01_raw" / "pocket_scenes"
    scenes.mkdir(parents=True)
    (scenes / "prompts.jsonl").touch()
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "bench.json").write_text("of an earlier run")
    pytest_ = f"test ! -e build/bench.json && echo measured > build/bench.json; exit {status}"
    script = f'case "$2" in pytest) {pytest_};; tests.bench.table) echo "table: $(cat "$3")";; esac'
    stand_in(binaries / "python", script)
    done = make("bench", tmp_path)
    assert (done.returncode != 0) == (status != 0), done.stdout + done.stderr
    assert ("table: measured" in done.stdout) == has_table, done.stdout + done.stderr
