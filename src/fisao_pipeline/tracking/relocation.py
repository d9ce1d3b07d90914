"""MLflow's files of a data folder that was moved or copied: its SQLite store names them by absolute places.

Without this, MLflow would look for the artifacts of earlier runs at the old place, and make that folder anew to write
those of the next run.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

logger = logging.getLogger(__name__)

# Where MLflow keeps places of files: table and column.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
_WITH_FILES = (("runs", "artifact_uri"), ("logged_models", "artifact_location"))
_WAIT_SECONDS = 30.0  # for another process that writes to the store


def follow_move(store: Path, artifacts: Path, data: Path) -> None:
    """Have a store in the data folder name its artifacts where they are now.

    What is left alone: a store elsewhere, experiments whose artifacts are by choice at another place, and those that
    have files at the old place alone, which a warning names.

    Args:
        store: The SQLite database, whose tables are those of the installed MLflow.
        artifacts: The folder in which this project keeps that store's artifacts.
        data: The data folder.
    """
    if not store.is_relative_to(data) or not store.is_file():
        return
    try:
        with closing(sqlite3.connect(store, timeout=_WAIT_SECONDS, isolation_level=None)) as database:
            for old in _moved_from(database, artifacts, data):
                _follow(database, old, artifacts)
    except sqlite3.Error as error:
        logger.warning("It is not known whether %s still names its artifacts where they are: %s", store, error)


def _moved_from(database: sqlite3.Connection, artifacts: Path, data: Path) -> list[str]:
    """Places of experiments, as they are written, that were this one when the data folder was elsewhere."""
    within = artifacts.relative_to(data).parts
    locations = [row[0] for row in database.execute("SELECT DISTINCT artifact_location FROM experiments")]
    places = {location: _path_of(location) for location in locations if str(location).startswith("file:///")}
    return [
        location
        for location, place in places.items()
        if place.parts[-len(within) :] == within and place != artifacts and not _same(place, artifacts)
    ]


def _follow(database: sqlite3.Connection, old: str, artifacts: Path) -> None:
    before, new = _path_of(old), artifacts.as_uri()
    database.execute("BEGIN IMMEDIATE")
    try:
        left = next(_left_behind(database, old, artifacts), None)
        if left is None:
            for table, column in _PLACES:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                    f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    if left is None:
        logger.info(
            "The data folder was moved or copied: MLflow's artifacts are in %s, no longer %s.", artifacts, before
        )
    else:
        logger.warning(
            "MLflow still keeps artifacts in %s, outside of the data folder, since %s is only there."
            " To have them here, copy what is in that folder into %s.",
            before,
            left,
            artifacts,
        )


def _left_behind(database: sqlite3.Connection, old: str, artifacts: Path) -> Iterator[Path]:
    """Folders of runs and models that are at the old place and not here."""
    for table, column in _WITH_FILES:
        query = f"SELECT {column} FROM {table} WHERE substr({column}, 1, ?) = ?"
        for (uri,) in database.execute(query, (len(old) + 1, f"{old}/")).fetchall():
            place = _path_of(uri)
            if place.exists() and not (artifacts / place.relative_to(_path_of(old))).exists():
                yield place


def _path_of(uri: str) -> Path:
    return Path(url2pathname(urlsplit(uri).path))


def _same(one: Path, other: Path) -> bool:
    """Whether two places are one folder, by a link for instance."""
    return one.exists() and other.exists() and one.samefile(other)
