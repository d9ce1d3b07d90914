"""A project of its own in the environment `smoke`: untrained pocket models, few scenes, whole runs in seconds."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from kedro.framework.project import settings
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from tests.pocket_models import build_pocket_models

PROJECT = Path(__file__).parents[1]
TABLES = {
    "image_manifest": "02_intermediate",
    "rejected_images": "02_intermediate",
    "rejected_prompts": "04_feature",
    "rejected_questions": "07_model_output",
    "prompts": "03_primary",
    "responses": "04_feature",
    "object_mentions": "04_feature",
    "response_scores": "04_feature",
    "token_rewards": "05_model_input",
    "training_history": "07_model_output",
    "training_rollouts": "07_model_output",
    "predictions": "07_model_output",
    "prediction_mentions": "07_model_output",
}
# Of a pipeline that a default run does not hold.
SCORED = {"scored_items": "07_model_output", "rejected_predictions": "07_model_output"}


def run_project(
    root: Path, env: str, pipeline: str | None = None, tags: list[str] | None = None, force: bool = False, **parameters
) -> str:
    """Run a project's pipeline in this process, if forced what is fresh, too; returns the session's id."""
    if force:
        parameters["runtime"] = {**parameters.get("runtime", {}), "force": True}
    bootstrap_project(root)
    before = Path.cwd()
    os.chdir(root)
    try:
        with settings.SESSION_CLASS.create(project_path=root, env=env, runtime_params=parameters) as session:
            assert isinstance(session, KedroSession)
            session.run(pipeline_names=[pipeline] if pipeline else None, tags=tags)
            return session.session_id
    finally:
        os.chdir(before)


def copy_configuration(root: Path) -> None:
    """What makes a folder a project of this package, without data."""
    shutil.copytree(PROJECT / "conf", root / "conf", ignore=shutil.ignore_patterns("local"))
    (root / "conf" / "local").mkdir()
    (root / "src").mkdir()
    for name in ("pyproject.toml", ".telemetry"):
        if (PROJECT / name).exists():
            shutil.copy(PROJECT / name, root / name)


class Smoke:
    """A project in a temporary folder with this package's configuration, and what was run in it."""

    def __init__(self, root: Path, tracking_uri: str):
        self.root, self.tracking_uri = root, tracking_uri

    @classmethod
    def make(
        cls, root: Path, mlflow_template: Path, put_models: Callable[[Path], Any] = build_pocket_models
    ) -> "Smoke":
        """Configuration and models in place, untrained unless said otherwise; no scenes, nothing run yet."""
        copy_configuration(root)
        store = root / "data" / "smoke" / "mlflow" / "mlflow.db"
        store.parent.mkdir(parents=True)
        shutil.copy(mlflow_template, store)
        put_models(root / "data" / "smoke" / "06_models")
        return cls(root, f"sqlite:///{store}")

    def run(self, pipeline: str | None = None, tags: list[str] | None = None, force: bool = False, **parameters) -> str:
        """Run in this process, if forced what is fresh, too; returns the session's id."""
        return run_project(self.root, "smoke", pipeline, tags, force, **parameters)

    def folder(self, name: str, layer: str) -> Path:
        (found,) = (
            (self.root / "data" / "smoke" / layer).glob(f"{name}.*")
            if name != "policy_adapter"
            else (self.root / "data" / "smoke" / layer / name,)
        )
        return found

    def versions(self, name: str, layer: str) -> list[str]:
        return sorted(path.name for path in self.folder(name, layer).iterdir() if not path.name.startswith("."))

    def table(self, name: str, version: str | None = None) -> pd.DataFrame:
        """The latest version, or the named one."""
        layer = (TABLES | SCORED)[name]
        folder = self.folder(name, layer)
        return pd.read_parquet(folder / (version or self.versions(name, layer)[-1]) / folder.name)

    def record(self, name: str) -> dict:
        folder = self.folder(name, "08_reporting")
        return json.loads((folder / self.versions(name, "08_reporting")[-1] / folder.name).read_text())

    def page(self, name: str, version: str | None = None) -> str:
        """The latest version, or the named one."""
        folder = self.folder(name, "08_reporting")
        return (folder / (version or self.versions(name, "08_reporting")[-1]) / folder.name).read_text()

    def tracked(self, session_id: str):
        client = mlflow.MlflowClient(self.tracking_uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        (run,) = client.search_runs(experiments, f"tags.kedro_session_id = '{session_id}'")
        return run
