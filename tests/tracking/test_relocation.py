"""A data folder that was moved or copied keeps its MLflow artifacts, and what comes after is written beside them."""

import logging
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from tests.adapter_project import with_adapter
from tests.runs.test_lineage import FORCED, Listener, run

from fisao_pipeline.tracking.relocation import follow_move

PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


@pytest.fixture
def project(toy_project, mlflow_template, monkeypatch) -> Path:
    """With one run of it, in its own store, in a folder whose name is written otherwise in a URI."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    made = with_adapter(toy_project)
    place = made.with_name("a b")
    made.rename(place)
    monkeypatch.chdir(place)
    store_of(place).parent.mkdir(parents=True)
    shutil.copy(mlflow_template, store_of(place))
    run(place)
    return place


@pytest.fixture
def listener():
    one = Listener()
    yield one
    logging.getLogger("fisao_pipeline").removeHandler(one)


def store_of(project: Path) -> Path:
    return project / "data" / "mlflow" / "mlflow.db"


def client_of(project: Path) -> mlflow.MlflowClient:
    uri = f"sqlite:///{store_of(project)}"
    return mlflow.MlflowClient(uri, uri)


def runs_of(project: Path):
    """The latest first."""
    client = client_of(project)
    return client.search_runs([client.get_experiment_by_name("fisao_pipeline").experiment_id])


def rows(project: Path) -> dict[str, list[str]]:
    """All places of files that the store names, but for the experiment that MLflow makes itself."""
    with closing(sqlite3.connect(store_of(project))) as database:
        return {
            f"{table}.{column}": [
                value for (value,) in database.execute(f"SELECT {column} FROM {table}") if "mlruns" not in value
            ]
            for table, columns in PLACES.items()
            for column in columns
        }


def run_at(project: Path, monkeypatch, **options):
    """A run of a project that was elsewhere, in which nothing that was imported there is left."""
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # which MLflow sets itself
    for name in [name for name in sys.modules if name.startswith("toy_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "/a b" not in entry])
    return run(project, runtime={**FORCED, "registered_model": "fisao-{base_model}"}, **options)


def has_lineage(project: Path, tracked) -> bool:
    files = [each.path for each in client_of(project).list_artifacts(tracked.info.run_id)]
    return tracked.info.artifact_uri.startswith((project / "data").as_uri()) and "lineage.json" in files


def test_after_a_move_all_artifacts_are_there_and_nothing_is_written_at_the_old_place(
    project,
    monkeypatch,
    listener,
    tmp_path,
):
    moved = tmp_path / "c d" / "e"
    moved.parent.mkdir()
    project.rename(moved)
    run_at(moved, monkeypatch, listener=listener)
    later, first = runs_of(moved)
    assert has_lineage(moved, first) and has_lineage(moved, later)
    (registered,) = client_of(moved).search_registered_models()
    version = client_of(moved).get_model_version(registered.name, "1")
    assert (Path(mlflow.artifacts.download_artifacts(version.source)) / "lineage.json").is_file()
    assert not project.exists()
    found = rows(moved)
    assert all(found.values())
    assert all(value.startswith((moved / "data").as_uri()) for values in found.values() for value in values)
    said = [message for message in listener.messages if "moved or copied" in message]
    old, new = (each / "data" / "mlflow" / "artifacts" for each in (project, moved))
    assert said == [f"INFO: The data folder was moved or copied: MLflow's artifacts are in {new}, no longer {old}."]
    run_at(moved, monkeypatch, listener=listener)
    assert len([message for message in listener.messages if "moved or copied" in message]) == 1


def test_a_copy_writes_into_itself_and_the_first_stays_as_it_is(project, monkeypatch, tmp_path):
    copied = tmp_path / "copy"
    shutil.copytree(project, copied)
    before = rows(project), sorted(project.rglob("data/mlflow/artifacts/**"))
    run_at(copied, monkeypatch)
    assert (rows(project), sorted(project.rglob("data/mlflow/artifacts/**"))) == before
    assert all(has_lineage(copied, each) for each in runs_of(copied)) and len(runs_of(copied)) == 2


def test_files_that_are_at_the_old_place_alone_are_not_lost(project, monkeypatch, listener, tmp_path):
    copied = tmp_path / "copy"
    shutil.copytree(project, copied, ignore=shutil.ignore_patterns("artifacts"))
    run_at(copied, monkeypatch, listener=listener)
    old, new = (each / "data" / "mlflow" / "artifacts" for each in (project, copied))
    (warning,) = (message for message in listener.messages if message.startswith("WARNING: MLflow still keeps"))
    assert f"artifacts in {old}, outside" in warning and warning.endswith(f"copy what is in that folder into {new}.")
    assert all(each.info.artifact_uri.startswith(old.as_uri()) for each in runs_of(copied))
    shutil.copytree(old, new, dirs_exist_ok=True)
    run_at(copied, monkeypatch)
    assert all(has_lineage(copied, each) for each in runs_of(copied)) and len(runs_of(copied)) == 3


def test_a_place_that_was_chosen_is_kept(project, monkeypatch, tmp_path):
    """Of an experiment whose artifacts lie elsewhere, though it is in the store that was moved."""
    elsewhere = (tmp_path / "elsewhere").as_uri()
    client_of(project).create_experiment("chosen", artifact_location=elsewhere)
    moved = tmp_path / "moved"
    project.rename(moved)
    run_at(moved, monkeypatch)
    assert client_of(moved).get_experiment_by_name("chosen").artifact_location == elsewhere


def test_a_link_to_the_folder_is_no_move(project, tmp_path):
    before, link = rows(project), tmp_path / "link"
    link.symlink_to(project / "data")
    store = link / "mlflow" / "mlflow.db"
    follow_move(store, store.with_name("artifacts"), link)
    assert rows(project) == before


def test_a_store_outside_of_the_data_folder_is_left_alone(project, tmp_path):
    before, moved = rows(project), tmp_path / "moved"
    project.rename(moved)
    store = store_of(moved)
    follow_move(store, store.with_name("artifacts"), moved / "data" / "smoke")
    assert rows(moved) == before


def test_all_places_are_changed_or_none(project, tmp_path, listener):
    before, moved = rows(project), tmp_path / "moved"
    project.rename(moved)
    store = store_of(moved)
    with closing(sqlite3.connect(store)) as database:
        database.execute("DROP TABLE trace_tags")
    listener.attach()
    follow_move(store, store.with_name("artifacts"), moved / "data")
    (warning,) = listener.messages
    assert warning.startswith("WARNING: It is not known") and warning.endswith("no such table: trace_tags")
    assert rows(moved) == before
