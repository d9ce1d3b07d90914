"""Shared by all tests: one thread, an MLflow store of their own, shapes checked at run time, a tiny Kedro project."""

import os
import shutil
import sys
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path

# Before anything imports torch: two processes with two threads each are slower on two cores than with one thread each.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from hypothesis import Phase, settings  # noqa: E402

# Shapes written in annotations are checked in every call; the hook must be there before the modules are imported.
jaxtyping.install_import_hook("fisao_pipeline.method", "beartype.beartype")

# What `make mutation` uses: the same examples for each mutant, and none is made smaller once one has failed.
settings.register_profile(
    "mutation", derandomize=True, deadline=None, database=None, phases=(Phase.explicit, Phase.generate), max_examples=25
)

TOY_NODES = """
    import time
    from pathlib import Path

    import mlflow
    import pandas as pd
    from kedro.pipeline import Node, Pipeline
    from pydantic import BaseModel


    class Ppo(BaseModel):
        clip_range: float
        sizes: list[int]


    class Block(BaseModel):
        ppo: Ppo
        note: str


    def make_table(block: Block):
        return pd.DataFrame({"number": range(3), "token_ids": [[1], [], [2, 3]]})


    def count_rows(table, block: Block, behaviour: str):
        mlflow.log_metric("rows_seen", len(table))
        if behaviour == "fail":
            raise ValueError("asked to fail")
        if behaviour == "wait":
            Path("waiting").touch()
            time.sleep(60)
        return {"rows": len(table)}


    def create_pipeline():
        return Pipeline([
            Node(make_table, ["params:block"], "table", name="make_table"),
            Node(count_rows, ["table", "params:block", "params:behaviour"], "count", name="count_rows"),
        ])
"""

TOY_FILES = {
    "pyproject.toml": """
        [tool.kedro]
        package_name = "{package}"
        project_name = "toy"
        kedro_init_version = "1.7.0"
        source_dir = "src"
    """,
    ".telemetry": "consent: false",
    "src/{package}/__init__.py": "",
    "src/{package}/settings.py": """
        from fisao_pipeline.settings import *
        from fisao_pipeline.settings import CONFIG_LOADER_ARGS, DISABLE_HOOKS_FOR_PLUGINS, HOOKS, SESSION_CLASS
    """,
    "src/{package}/nodes.py": TOY_NODES,
    "src/{package}/pipeline_registry.py": """
        from {package}.nodes import create_pipeline

        def register_pipelines():
            return {{"__default__": create_pipeline(), "toy": create_pipeline()}}
    """,
    "conf/base/parameters.yml": """
        block: {{ppo: {{clip_range: 0.2, sizes: [1, 2]}}, note: {long_text}}}
        behaviour: work
    """,
    "conf/base/catalog.yml": """
        table:
          type: fisao_pipeline.datasets.AtomicDataset
          dataset: pandas.ParquetDataset
          filepath: data/table.parquet
          versioned: true
        count:
          type: fisao_pipeline.datasets.AtomicDataset
          dataset: json.JSONDataset
          filepath: data/count.json
          versioned: true
    """,
    "conf/local/.gitkeep": "",
}


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once: that takes seconds."""
    from mlflow import MlflowClient

    database = tmp_path_factory.mktemp("mlflow_template") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def mlflow_store(mlflow_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an MLflow store of this test's own, which runs of any Kedro project use within the test."""
    store = tmp_path / "mlflow" / "mlflow.db"
    store.parent.mkdir()
    shutil.copy(mlflow_template, store)
    uri = f"sqlite:///{store}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture(autouse=True)
def no_stray_mlflow_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests that do not ask for a store from writing into the project's."""
    if "MLFLOW_TRACKING_URI" not in os.environ:
        folder = tmp_path_factory.getbasetemp() / "mlflow"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture
def toy_project(tmp_path: Path, mlflow_store: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a Kedro project of two nodes that uses this package's settings; `files` replaces or adds to its files."""

    def make(files: dict[str, str] | None = None) -> Path:
        package = f"toy_{uuid.uuid4().hex[:8]}"
        root = tmp_path / "project"
        mlflow_yml = Path(__file__).parents[1] / "conf" / "base" / "mlflow.yml"
        for name, text in {**TOY_FILES, **(files or {})}.items():
            path = root / name.format(package=package)
            path.parent.mkdir(parents=True, exist_ok=True)
            body = textwrap.dedent(text)
            formatted = body if text is TOY_NODES else body.format(package=package, long_text="x" * 7000)
            path.write_text(formatted)
        shutil.copy(mlflow_yml, root / "conf" / "base" / "mlflow.yml")
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "path", list(sys.path))
        # As a release that is installed: the commit is that of the project.
        monkeypatch.setattr("fisao_pipeline.artifacts.provenance.CODE", Path("/venv/site-packages/fisao_pipeline"))
        return root

    return make
