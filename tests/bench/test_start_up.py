"""What the shell around the method costs: imports, the command line, a run that does nothing, a whole `train`."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from tests.bench.side_by_side import Rival, Target, Work, child_cpu_seconds
from tests.conftest import TOY_FILES, TOY_NODES

PROJECT = Path(__file__).parents[2]
KEDRO = [sys.executable, "-m", "kedro"]
pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800), pytest.mark.benchmark(timer=child_cpu_seconds)]

# The same project with Kedro's own datasets, kedro-mlflow as it comes, and none of this package's settings.
BARE_FILES = {
    "src/{package}/settings.py": "",
    # Ours names a resolver of ours.
    "conf/base/mlflow.yml": """
        server:
          mlflow_tracking_uri: sqlite:///mlflow.db
    """,
    "conf/base/catalog.yml": """
        table:
          type: pandas.ParquetDataset
          filepath: data/table.parquet
          versioned: true
        count:
          type: json.JSONDataset
          filepath: data/count.json
          versioned: true
    """,
}


def toy(root: Path, package: str, files: dict[str, str]) -> Path:
    """A project of two nodes that do nothing worth the name."""
    (root / "conf" / "base").mkdir(parents=True)
    shutil.copy(PROJECT / "conf" / "base" / "mlflow.yml", root / "conf" / "base" / "mlflow.yml")
    for name, body in {**TOY_FILES, **files}.items():
        path = root / name.format(package=package)
        path.parent.mkdir(parents=True, exist_ok=True)
        # As in the tests' own fixture: all but the nodes hold fields to fill in.
        text = textwrap.dedent(body)
        path.write_text(text if body is TOY_NODES else text.format(package=package, long_text="-"))
    return root


def start(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment(folder))
    assert done.returncode == 0, done.stdout + done.stderr


def environment(folder: Path) -> dict[str, str]:
    """Of a process of its own: a store of its own, and this checkout's package."""
    paths = [str(PROJECT / "src"), os.environ.get("PYTHONPATH", "")]
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "KEDRO_DISABLE_TELEMETRY": "1"}
    return {**os.environ, **store, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_import(compare, tmp_path):
    def with_nothing() -> None:
        start([sys.executable, "-c", "pass"], tmp_path)

    rows = compare(
        Work("`import fisao_pipeline`", 1, "starts"),
        lambda: start([sys.executable, "-c", "import fisao_pipeline"], tmp_path),
        [Rival("`python -c pass`", with_nothing, is_floor=True)],
        rounds=5,
    )
    seconds = compare.benchmark.stats.stats.median
    rows[0].update(target="≤ 0.3 s", met=seconds <= 0.3, ours=f"{seconds:.3f} s")


def test_command_line(compare, tmp_path):
    bare = toy(tmp_path, "bare_project", BARE_FILES)
    compare(
        Work("`kedro run --help`", 1, "starts"),
        lambda: start([*KEDRO, "run", "--help"], PROJECT),
        [
            Rival(
                "a bare project with kedro-mlflow",
                lambda: start([*KEDRO, "run", "--help"], bare),
                target=Target(1.2, at_most=True),
                is_floor=True,
            )
        ],
        rounds=3,
    )


def test_a_run_that_does_nothing(compare, tmp_path):
    bare = toy(tmp_path / "bare", "bare_project", BARE_FILES)
    ours = toy(tmp_path / "ours", "settled_project", {})
    compare(
        Work("a run of two nodes that do nothing", 1, "runs", "versions, provenance and lineage kept by ours"),
        lambda: start([*KEDRO, "run"], ours),
        [Rival("a bare project with kedro-mlflow", lambda: start([*KEDRO, "run"], bare), is_floor=True)],
        rounds=2,
    )


def test_the_shell_around_train(keep_row, tmp_path):
    """Whole seconds of `kedro run --pipelines=train` less those within its nodes."""
    for part in ("conf", "pyproject.toml", ".telemetry", "src/fisao_pipeline", "data/06_models"):
        source, copy = PROJECT / part, tmp_path / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    # What `make run` does first; it leaves MLflow's database, too, as any command before the first `train` does.
    start([*KEDRO, "run", "--pipelines=pocket_world", "--tags=scenes"], tmp_path)
    report = tmp_path / "seconds_in_nodes.json"
    started = time.perf_counter()
    start([sys.executable, str(Path(__file__).with_name("timed_train.py")), str(report)], tmp_path)
    whole = time.perf_counter() - started
    shell = whole - json.loads(report.read_text())
    row = {
        "title": "Kedro, MLflow and manifests in `train`",
        "against": "the whole of it, one process from its start to its end",
        "ours": f"{shell:.1f} s",
        "theirs": f"{whole:.1f} s",
        "note": "the clock on the wall, torch's own number of threads; pictures and MLflow's database are there",
        "missing": None,
    }
    keep_row(row, [shell / whole], Target(0.05, at_most=True))
