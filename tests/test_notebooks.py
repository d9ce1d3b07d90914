"""The notebooks run from top to bottom, in a copy of the project: the one that looks at a run on a fresh smoke run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PROJECT = Path(__file__).parents[1]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))


def copy_project(root: Path) -> Path:
    root.mkdir()
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(PROJECT / name, root / name)
    for name in ("conf/base", "conf/smoke", "notebooks", "src"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(PROJECT / "conf" / "logging.yml", root / "conf" / "logging.yml")
    (root / "conf" / "local").mkdir()
    return root


def execute(path: Path, root: Path) -> list[dict]:
    """All outputs of the notebook, run in the project at ``root``."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(root / "notebooks")}}).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the artifacts of a smoke run."""
    root = copy_project(tmp_path_factory.mktemp("notebooks") / "project")
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    for arguments in (["--pipelines=pocket_world"], []):
        command = [sys.executable, "-m", "kedro", "run", "--env=smoke", *arguments]
        done = subprocess.run(command, cwd=root, env=env, check=False, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_look_at_a_run(smoke_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDRO_ENV", "smoke")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    outputs = execute(PROJECT / "notebooks" / "01_look_at_a_run.ipynb", smoke_run)
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html", "text/markdown", "application/vnd.plotly.v1+json"} <= kinds
    assert "Base against aligned" in str(outputs)


def test_why_vision_feedback_helps_needs_no_run(tmp_path: Path) -> None:
    outputs = execute(PROJECT / "notebooks" / "02_why_vision_feedback_helps.ipynb", copy_project(tmp_path / "project"))
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"text/html", "application/vnd.plotly.v1+json"} <= kinds
    printed = "".join(output.get("text", "") for output in outputs)
    assert re.search(r"informative .* change: -\d", printed)
    assert re.search(r"control .* at λ = 0.000   change: \+0.0%", printed)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    dirty = [cell["id"] for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    assert not dirty, f"clear the outputs of {path.name}"


def test_every_notebook_is_run_by_a_test_of_this_file() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01_look_at_a_run", "02_why_vision_feedback_helps"]
