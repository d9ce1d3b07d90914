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


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_mlflow_is_found_where_the_environment_is_not_activated(tmp_path):
    (tmp_path / ".ci").mkdir()
    for name in ("Makefile", "pyproject.toml", ".ci/constraints.txt"):
        shutil.copy(PROJECT / name, tmp_path / name)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    stand_in(binaries / "kedro", 'exec "$1" started by its name')
    stand_in(binaries / "mlflow", 'echo "this mlflow: $*"')
    (tmp_path / ".venv" / ".installed").touch()
    done = subprocess.run(
        ["make", "mlflow"],
        cwd=tmp_path,
        env={**os.environ, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "this mlflow: started by its name" in done.stdout, done.stdout + done.stderr
