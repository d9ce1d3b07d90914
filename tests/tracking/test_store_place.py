"""Which folder MLflow's files are in, by the environment and its globals."""

import logging
from pathlib import Path

import pytest
from kedro.config import OmegaConfigLoader
from tests.adapter_project import with_adapter
from tests.runs.test_lineage import Listener, only_run, run

from fisao_pipeline import settings

CONF = Path(__file__).parents[2] / "conf"
MODELS = sorted(
    path.parent.name for path in CONF.glob("*/globals.yml") if path.parent.name not in ("base", "smoke", "local")
)


@pytest.fixture(autouse=True)
def nothing_chosen(mlflow_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


def store_of(environment: str, conf: Path = CONF, **data: str) -> str:
    """The address in an environment, some of which say otherwise where their data is."""
    patterns = {"mlflow": ["mlflow*", "mlflow*/**"]}
    loader = OmegaConfigLoader(str(conf), env=environment, config_patterns=patterns, **settings.CONFIG_LOADER_ARGS)
    loader["globals"] = {**loader["globals"], **data}
    return loader["mlflow"]["server"]["mlflow_tracking_uri"]


def test_the_environments_of_the_models_share_the_store_that_is_looked_at_without_one():
    assert "llava15" in MODELS
    assert {store_of(environment) for environment in ("base", *MODELS)} == {"sqlite:///data/mlflow/mlflow.db"}
    assert store_of("smoke") == "sqlite:///data/smoke/mlflow/mlflow.db"


def test_mlflow_is_where_the_data_is_or_where_it_is_told():
    assert store_of("base", data="/big disk/x") == "sqlite:////big disk/x/mlflow/mlflow.db"
    assert store_of("smoke", data="/big disk/x") == "sqlite:////big disk/x/mlflow/mlflow.db"
    assert store_of("llava15", data="/big/x", mlflow="/big/y") == "sqlite:////big/y/mlflow.db"


def test_a_variable_of_the_shell_comes_first(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert {store_of(environment, mlflow="/big") for environment in ("base", "smoke", "llava15")} == {
        "sqlite:///other.db"
    }


def test_data_kept_elsewhere_has_mlflow_with_it_and_the_project_nothing(toy_project, tmp_path):
    elsewhere = tmp_path / "big disk"
    project = toy_project({"conf/base/globals.yml": f"data: {elsewhere}\n"})
    run(project)
    tracked = only_run(f"sqlite:///{elsewhere}/mlflow/mlflow.db")
    assert tracked.info.artifact_uri.startswith((elsewhere / "mlflow/artifacts").as_uri())
    assert not (project / "data" / "mlflow").exists()


def test_data_that_is_moved_out_of_the_project_is_gone_on_with(toy_project, tmp_path, monkeypatch):
    project, elsewhere, listener = with_adapter(toy_project), tmp_path / "big disk", Listener()
    run(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # which MLflow sets itself
    (project / "data").rename(elsewhere)
    (project / "conf/base/globals.yml").write_text(f"data: {elsewhere}\n")
    catalog = project / "conf/base/catalog.yml"
    catalog.write_text(catalog.read_text().replace("filepath: data/", f"filepath: {elsewhere}/"))
    try:
        run(project, listener=listener)
    finally:
        logging.getLogger("fisao_pipeline").removeHandler(listener)
    assert any("moved or copied" in message for message in listener.messages)
    assert not (project / "data" / "mlflow").exists()
