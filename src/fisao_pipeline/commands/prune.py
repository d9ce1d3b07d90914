"""`python -m fisao_pipeline prune`: removes old versions, never the newest and none that a kept one was made from.

And what runs that were given up have left.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from kedro.io import DataCatalog

from fisao_pipeline.artifacts.provenance import BrokenRecordError, read_record
from fisao_pipeline.artifacts.sizes import bytes_below, said_bytes
from fisao_pipeline.datasets.atomic import AtomicVersions
from fisao_pipeline.datasets.keyed_folder import KeyedFolder, KeyedFolderDataset
from fisao_pipeline.datasets.publish import STAGING_PREFIX
from fisao_pipeline.datasets.write_errors import write_failure

_AGE = re.compile(r"(\d+)\s*([dhw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_VERSION_TIME = "%Y-%m-%dT%H.%M.%S.%fZ"
Kept = tuple[str, str]
"""An artifact's catalog name and a version."""


@dataclass(frozen=True)
class Old:
    """A version that may go."""

    name: str
    version: str
    folder: Path
    bytes: int


@dataclass(frozen=True)
class Abandoned:
    """A value of a run that was stopped long ago, and may go."""

    name: str
    key: str
    values: KeyedFolder
    bytes: int


def removable(
    catalog: DataCatalog, keep_last: int | None, older_than: timedelta | None, now: datetime
) -> tuple[list[Old], list[str]]:
    """What may be removed.

    Args:
        catalog: Whose versions.
        keep_last: How many of each artifact stay; None for no such rule.
        older_than: Younger ones stay; None for no such rule.
        now: With a time zone.

    Returns:
        Versions that neither rule keeps, that are not the newest of their artifact and that nothing kept was made
        from, directly or through others; and remarks on what stays because its descent is not known.
    """
    datasets = {name: dataset for name in catalog if isinstance(dataset := catalog.get(name), AtomicVersions)}
    versions = {name: dataset.versions() for name, dataset in datasets.items()}
    kept = {
        (name, version)
        for name, own in versions.items()
        for place, version in enumerate(reversed(own))
        if place == 0 or not _is_old(version, place, keep_last, older_than, now)
    }
    remarks: list[str] = []
    _keep_ancestors(kept, datasets, versions, remarks)
    old = [
        Old(name, version, datasets[name].folder / version, bytes_below(datasets[name].folder / version))
        for name, own in versions.items()
        for version in own
        if (name, version) not in kept
    ]
    return old, remarks


def _is_old(version: str, place: int, keep_last: int | None, older_than: timedelta | None, now: datetime) -> bool:
    if keep_last is not None and place < keep_last:
        return False
    if older_than is None:
        return True
    try:
        return now - datetime.strptime(version, _VERSION_TIME).replace(tzinfo=UTC) > older_than
    except ValueError:
        return False  # named by somebody, who will know


def _keep_ancestors(
    kept: set[Kept],
    datasets: Mapping[str, AtomicVersions],
    versions: Mapping[str, Sequence[str]],
    remarks: list[str],
) -> None:
    """Add to what is kept all that it was made from."""
    waiting = sorted(kept)
    while waiting:
        name, version = waiting.pop()
        inputs = _inputs(datasets[name], version)
        if inputs is None:
            remarks.append(f"{name} {version} does not tell what it was made from: all that is not younger is kept")
            ancestors = {(other, older) for other, own in versions.items() for older in own if older <= version}
        else:
            ancestors = {(other, older) for other, older in inputs.items() if older in versions.get(other, ())}
        waiting += sorted(ancestors - kept)
        kept |= ancestors


def _inputs(dataset: AtomicVersions, version: str) -> Mapping[str, str] | None:
    place = dataset.provenance_path(version)
    try:
        record = read_record(place) if place is not None else None
    except BrokenRecordError:
        return None
    return record["inputs"] if record is not None else None


def remove(old: Old) -> None:
    """Remove a version; it is gone in one step, though its bytes take longer.

    Raises:
        OSError: It cannot be removed.
    """
    aside = old.folder.with_name(f"{STAGING_PREFIX}pruned-{uuid.uuid4().hex[:12]}")
    os.rename(old.folder, aside)
    shutil.rmtree(aside)


def abandoned(catalog: DataCatalog, older_than: timedelta, now: datetime) -> list[Abandoned]:
    """Values of unfinished runs that were last written longer ago; those of caches are none of them.

    Args:
        catalog: Whose values.
        older_than: Younger ones stay.
        now: With a time zone.
    """
    found = []
    for name in catalog:
        dataset = catalog.get(name)
        if not isinstance(dataset, KeyedFolderDataset) or not dataset.of_unfinished_runs:
            continue
        values = dataset.load()
        for key, state in values.states().items():
            if now - datetime.fromtimestamp(state.st_mtime, UTC) > older_than:
                found.append(Abandoned(name, key, values, state.st_size))
    return found


def _age(_context: click.Context, _option: click.Parameter, text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise click.BadParameter(f"'{text}' is no age: give hours, days or weeks, such as 36h, 30d or 8w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


@contextmanager
def _told(what: str, place: Path) -> Iterator[None]:
    """Make of a disk that does not let something be removed what a run says of one that does not take it."""
    try:
        yield
    except OSError as error:
        reason = write_failure(error, place) or str(error)
        raise click.ClickException(f"Could not remove {what} at '{place}': {reason}") from error


@click.command()
@click.option("--keep-last", type=click.IntRange(min=1), help="Keep so many versions of each artifact.")
@click.option("--older-than", callback=_age, help="Remove none that is younger: 36h, 30d, 8w.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, remove nothing.")
@click.option("--env", default=None, help="The Kedro environment whose artifacts are looked at.")
def prune(keep_last: int | None, older_than: timedelta | None, dry_run: bool, env: str | None) -> None:
    """Remove versions that are both too many and too old, never one that another which stays was made from.

    With --older-than also what unfinished runs have left: checkpoints and parts.
    """
    from fisao_pipeline.commands.project import open_project  # noqa: PLC0415 - slow to import
    from fisao_pipeline.runs.run_lock import RunLock  # noqa: PLC0415

    if keep_last is None and older_than is None:
        raise click.UsageError("Say what shall stay: --keep-last, --older-than, or both.")
    project = open_project(env)
    with RunLock(project.data).acquire():
        now = datetime.now(UTC)
        old, remarks = removable(project.catalog, keep_last, older_than, now)
        left = abandoned(project.catalog, older_than, now) if older_than is not None else []
        for remark in remarks:
            click.echo(remark)
        for each in old:
            if not dry_run:
                with _told(f"{each.name} {each.version}", each.folder):
                    remove(each)
            click.echo(f"{each.name} {each.version}: {said_bytes(each.bytes)}")
        for value in left:
            if not dry_run:
                with _told(f"{value.name} {value.key}", value.values.folder):
                    value.values.remove(value.key)
            click.echo(f"{value.name} {value.key}: {said_bytes(value.bytes)}, of an unfinished run")
    counted = f"{len(old)} versions" + (
        f" and {len(left)} value{'s' * (len(left) != 1)} of unfinished runs" if left else ""
    )
    total = said_bytes(sum(each.bytes for each in [*old, *left]))
    click.echo(f"{counted}, {total}" + (" would be removed" if dry_run else " removed"))
