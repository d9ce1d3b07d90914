"""What may be removed, on versions made for the test."""

import errno
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kedro.io import DataCatalog, Version

from fisao_pipeline.artifacts.provenance import seal
from fisao_pipeline.commands.prune import removable, remove
from fisao_pipeline.datasets import AdapterFolderDataset, AtomicDataset

NOW = datetime(2026, 2, 1, tzinfo=UTC)


def day(number: int) -> str:
    return f"2026-01-{number:02d}T00.00.00.000Z"


@pytest.fixture
def catalog(tmp_path):
    return DataCatalog(
        {
            name: AtomicDataset(filepath=str(tmp_path / name), dataset="json.JSONDataset", version=Version(None, None))
            for name in ("responses", "rewards", "figure")
        }
        | {"adapter": AdapterFolderDataset(filepath=str(tmp_path / "adapter"), version=Version(None, None))}
    )


def put(catalog, name: str, version: str, **inputs: str) -> None:
    folder = catalog.get(name).folder / version
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"x" * 10)
    record = {"inputs": inputs, "fingerprint": "sha256:0"}
    (folder / "provenance.json").write_text(json.dumps({**record, "seal": seal(record)}))


@pytest.fixture
def five_days(catalog):
    """Five days of responses → rewards → adapter, and a figure of each day's rewards."""
    for number in range(1, 6):
        put(catalog, "responses", day(number))
        put(catalog, "rewards", day(number), responses=day(number))
        put(catalog, "figure", day(number), rewards=day(number))
        put(catalog, "adapter", day(number), rewards=day(number), image_folder=None)
    return catalog


def left(catalog, keep_last=None, older_than=None) -> dict[str, list[int]]:
    """Days that stay, by artifact."""
    old, _ = removable(catalog, keep_last, older_than, NOW)
    gone = {(each.name, each.version) for each in old}
    return {
        name: [int(version[8:10]) for version in catalog.get(name).versions() if (name, version) not in gone]
        for name in ("responses", "rewards", "figure", "adapter")
    }


def test_the_last_of_each_stay(five_days):
    assert set(map(tuple, left(five_days, keep_last=2).values())) == {(4, 5)}


def test_the_young_stay(five_days):
    assert set(map(tuple, left(five_days, older_than=timedelta(days=29)).values())) == {(3, 4, 5)}


def test_what_is_both_goes(five_days):
    assert set(map(tuple, left(five_days, keep_last=4, older_than=timedelta(days=29)).values())) == {(2, 3, 4, 5)}


def test_the_newest_stays_whatever_its_age(five_days):
    assert set(map(tuple, left(five_days, older_than=timedelta(0)).values())) == {(5,)}


def test_what_a_kept_one_was_made_from_stays(five_days):
    put(five_days, "adapter", day(6), rewards=day(2))
    kept = left(five_days, keep_last=1)
    assert kept == {"responses": [2, 5], "rewards": [2, 5], "figure": [5], "adapter": [6]}


def test_where_descent_is_not_known_all_that_is_older_stays(five_days):
    broken = five_days.get("adapter").folder / day(5) / "provenance.json"
    for damage in (lambda: broken.write_text("{"), broken.unlink):
        damage()
        old, remarks = removable(five_days, 1, None, NOW)
        assert old == []
        assert remarks == [f"adapter {day(5)} does not tell what it was made from: all that is not younger is kept"]


def test_a_version_with_a_name_of_its_own_is_nobodys_to_remove(five_days):
    put(five_days, "figure", "0-for-the-talk")
    assert "0-for-the-talk" not in {each.version for each in removable(five_days, None, timedelta(0), NOW)[0]}


def test_removing_takes_the_folder_and_counts_its_bytes(five_days):
    (old, *_), _ = removable(five_days, 4, None, NOW)
    assert old.bytes == sum(file.stat().st_size for file in old.folder.iterdir()) > 10
    remove(old)
    assert not old.folder.exists()
    assert not [path for path in old.folder.parent.iterdir() if path.name.startswith(".")]


def prune(project, *words):
    from click.testing import CliRunner

    from fisao_pipeline.commands.cli import cli

    return CliRunner().invoke(cli, ["prune", *words])


def test_on_the_command_line(toy_project):
    from tests.runs.test_lineage import FORCED, run

    project = toy_project()
    first, second, third = (run(project, runtime=FORCED) for _ in range(3))
    folder = project / "data" / "table.parquet"
    dry = prune(project, "--keep-last=2", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert f"table {first}: " in dry.output and f"count {first}: " in dry.output
    assert "2 versions, " in dry.output and "would be removed" in dry.output
    assert (folder / first).exists()
    done = prune(project, "--keep-last=2")
    assert done.exit_code == 0 and done.output.splitlines()[-1].endswith(" removed")
    assert [(folder / version).exists() for version in (first, second, third)] == [False, True, True]
    assert run(project) and (folder / third).exists()


@pytest.mark.parametrize(("call", "what"), [("rename", "count "), ("unlink", "checkpoints old")])
def test_a_disk_that_lets_nothing_be_removed_is_told_with_a_remedy(toy_project, monkeypatch, call, what):
    project = toy_project()
    catalog = project / "conf" / "base" / "catalog.yml"
    entry = "  type: fisao_pipeline.datasets.KeyedFolderDataset\n  dataset: json.JSONDataset\n  suffix: .json\n"
    catalog.write_text(
        f"{catalog.read_text()}checkpoints:\n{entry}  filepath: data/checkpoints\n  of_unfinished_runs: true\n"
    )
    if call == "rename":
        for version in (day(1), day(2)):
            folder, record = project / "data" / "count.json" / version, {"inputs": {}, "fingerprint": "sha256:0"}
            folder.mkdir(parents=True)
            (folder / "count.json").write_text("{}")
            (folder / "provenance.json").write_text(json.dumps({**record, "seal": seal(record)}))
    else:
        kept = project / "data" / "checkpoints" / "old.json"
        kept.parent.mkdir(parents=True)
        kept.write_text('"x"')
        os.utime(kept, (0, 0))

    def refused(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, call, refused)
    result = prune(project, "--older-than=1h")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert f"Error: Could not remove {what}" in result.output and str(project / "data") in result.output
    assert "Read-only file system. To go on, mount it writable, " in result.output


def test_what_abandoned_runs_left_goes_by_its_age(toy_project):
    """Checkpoints, not the rows of a study; and nothing where no age was given."""
    project = toy_project()
    entry = "  type: fisao_pipeline.datasets.KeyedFolderDataset\n  dataset: json.JSONDataset\n  suffix: .json\n"
    catalog = project / "conf" / "base" / "catalog.yml"
    catalog.write_text(
        catalog.read_text()
        + f"checkpoints:\n{entry}  filepath: data/checkpoints\n  of_unfinished_runs: true\n"
        + f"study_rows:\n{entry}  filepath: data/study_rows\n"
    )
    long_ago = (datetime.now(UTC) - timedelta(days=40)).timestamp()
    for folder in ("checkpoints", "study_rows"):
        (project / "data" / folder).mkdir(parents=True)
        for key in ("old", "young"):
            path = project / "data" / folder / f"{key}.json"
            path.write_text('"x"')
            if key == "old":
                os.utime(path, (long_ago, long_ago))

    def there() -> list[str]:
        return sorted(f"{path.parent.name}/{path.stem}" for path in (project / "data").glob("*/*.json"))

    all_of_them = ["checkpoints/old", "checkpoints/young", "study_rows/old", "study_rows/young"]
    dry = prune(project, "--older-than=30d", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert dry.output.splitlines() == [
        "checkpoints old: 3 bytes, of an unfinished run",
        "0 versions and 1 value of unfinished runs, 3 bytes would be removed",
    ]
    assert prune(project, "--keep-last=1").output.splitlines() == ["0 versions, 0 bytes removed"]
    assert there() == all_of_them
    assert prune(project, "--older-than=30d").exit_code == 0
    assert there() == all_of_them[1:]


def test_checkpoints_and_parts_are_of_unfinished_runs_and_no_cache_is():
    import yaml

    base = Path(__file__).parents[2] / "conf" / "base"
    entries = {}
    for path in base.glob("catalog*.yml"):
        entries |= yaml.safe_load(path.read_text()) or {}
    marked = {name for name, entry in entries.items() if entry.get("of_unfinished_runs")}
    assert marked == {"response_shards", "prediction_shards", "training_checkpoints"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Say what shall stay"),
        (["--older-than=soon"], "'soon' is no age"),
        (["--keep-last=0"], "0 is not in the range"),
    ],
)
def test_what_makes_no_sense_is_refused(toy_project, words, said):
    result = prune(toy_project(), *words)
    assert result.exit_code == 2
    assert said in result.output
