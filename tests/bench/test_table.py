"""What the table says of measurements: ratios the right way round, peers that are missing, exponents, the page."""

import json
import sys
from importlib import metadata
from types import ModuleType

import pytest
from tests.bench import trl_peer
from tests.bench.side_by_side import Rival, SideBySide, Target, Work
from tests.bench.table import (
    DOCS,
    GROWTH_TARGETS,
    ROUND,
    SAMPLING,
    exponent,
    headline,
    kept,
    main,
    page,
    put_headline,
)
from tests.bench.test_growth import AXES

from fisao_pipeline.commands.study_docs import put_table

REPORT = {
    "machine_info": {"cpu": {"brand_raw": "A CPU", "count": 2}, "processor": "", "python_version": "3.11.7"},
    "commit_info": {"id": "0123456789abcdef", "dirty": True},
    "datetime": "2026-11-28T12:00:00",
    "benchmarks": [
        {
            "extra_info": {
                "rows": [
                    {
                        "title": "a",
                        "against": "b|c",
                        "note": "d",
                        "missing": None,
                        "median": 2.0,
                        "low": 1.5,
                        "high": 2.5,
                    }
                    | {"target": "≥ 3", "met": False, "ours": "4 x/s", "theirs": "2 x/s"},
                    {"title": "e", "against": "TRL", "note": "", "missing": "it is not there", "ours": "1 x/s"},
                ]
            }
        },
        {
            "extra_info": {
                "growth": [
                    {"axis": "pictures", "stage": "update", "amounts": [1, 4, 16], "points": [[1, 5], [4, 5], [16, 5]]}
                ]
            }
        },
    ],
}


class Clock:
    """A stand-in for pytest-benchmark's fixture and for its timer: each thing takes as long as it says."""

    def __init__(self):
        self.now = 0.0
        self.extra_info = {}
        self.stats = self
        self.data = []

    def __call__(self):
        return self.now

    def lasting(self, seconds):
        def run():
            self.now += seconds

        return run

    def pedantic(self, target, setup, rounds, warmup_rounds):
        for number in range(warmup_rounds + rounds):
            setup()
            started = self.now
            target()
            self.data += [self.now - started] if number >= warmup_rounds else []


def measured(*rivals, work=None):
    clock = Clock()
    rows = SideBySide(clock, clock)(work or Work("work", 10, "things"), clock.lasting(2.0), rivals, rounds=3)
    assert clock.extra_info["rows"] == rows
    return rows


def test_a_rivals_ratio_is_its_time_over_ours_for_as_much_work():
    clock = Clock()
    slow = Rival("slow", clock.lasting(3.0), amount=5, target=Target(2.9))
    (row,) = SideBySide(clock, clock)(Work("work", 10, "things"), clock.lasting(2.0), [slow], rounds=3)
    assert [row["median"], row["low"], row["high"]] == pytest.approx([3.0] * 3)
    assert row["met"] and row["target"] == "≥ 2.9"
    assert (row["ours"], row["theirs"]) == ("5 things/s", "1.67 things/s")


def test_a_floors_ratio_is_our_time_over_its():
    clock = Clock()
    floor = Rival("floor", clock.lasting(1.6), target=Target(1.2, at_most=True), is_floor=True)
    (row,) = SideBySide(clock, clock)(Work("work", 10, "things"), clock.lasting(2.0), [floor], rounds=3)
    assert row["median"] == pytest.approx(1.25)
    assert not row["met"]


def test_a_slow_rival_takes_a_turn_in_the_first_rounds_alone():
    turns = []
    rival = Rival("slow", lambda: float(turns.append(1) or 4 * len(turns)), rounds=2)
    (row,) = measured(rival)
    assert len(turns) == 3, "one does not count"
    assert [row["low"], row["median"], row["high"]] == pytest.approx([4.0, 5.0, 6.0])


def test_seconds_that_a_rival_gives_count_in_place_of_the_clocks():
    (row,) = measured(Rival("partly", lambda: 4.0))
    assert row["median"] == 2.0


def test_a_rival_that_is_missing_has_a_row_that_says_so():
    (row,) = measured(Rival("TRL", None, target=Target(2.0), missing="it is not there"))
    assert row["missing"] == "it is not there"
    assert "median" not in row
    text = page({**kept(REPORT), "rows": [row]})
    assert "| work | TRL | not run: it is not there | ≥ 2 | **no** | 5 things/s |  |" in text
    assert "| e | TRL | not run: it is not there |" in page(kept(REPORT))


def test_a_rival_that_raises_has_a_row_that_says_so_and_the_others_are_timed():
    """In the round that does not count and in a later one; it is not asked again."""
    calls = []

    def fails_at(round_, error):
        def run():
            calls.append(round_)
            if calls.count(round_) == round_:
                raise error

        return run

    clock = Clock()
    rivals = [
        Rival("at once", fails_at(1, RuntimeError("no kernel\nlong story"))),
        Rival("later", fails_at(3, KeyError())),
        Rival("well", clock.lasting(3.0)),
    ]
    at_once, later, well = SideBySide(clock, clock)(Work("work", 10, "things"), clock.lasting(2.0), rivals, rounds=3)
    assert at_once["missing"] == "RuntimeError: no kernel" and later["missing"] == "KeyError"
    assert "median" not in at_once and "median" not in later
    assert at_once["ours"] == "5 things/s"
    assert (calls.count(1), calls.count(3)) == (1, 3)
    assert well["missing"] is None and well["median"] == pytest.approx(1.5)


def test_a_peer_that_is_not_installed_or_another_version_is_missing(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(trl_peer.metadata, "version", absent)
    assert trl_peer.trl_missing().startswith("TRL is not there (No package metadata was found for trl): `make bench`")
    monkeypatch.setitem(sys.modules, "trl", ModuleType("trl"))
    monkeypatch.setattr(trl_peer.metadata, "version", lambda name: "1.17.0")
    assert trl_peer.trl_missing() == "TRL 1.17.0 is there and not 1.16"
    monkeypatch.setattr(trl_peer.metadata, "version", lambda name: "1.16.2")
    assert trl_peer.trl_missing() is None


def test_a_peer_that_cannot_be_built_is_missing(monkeypatch):
    def broken():
        raise TypeError("GRPOConfig got an unexpected keyword")

    monkeypatch.setattr(trl_peer, "trl_missing", lambda: None)
    assert trl_peer.trl_or_why(broken) == (None, "TypeError: GRPOConfig got an unexpected keyword")
    assert trl_peer.trl_or_why(lambda: "a trainer") == ("a trainer", None)
    monkeypatch.setattr(trl_peer, "trl_missing", lambda: "it is not there")
    assert trl_peer.trl_or_why(broken) == (None, "it is not there")


def test_the_page():
    text = page(kept(REPORT))
    assert "A CPU, 2 cores, Python 3.11.7, commit `0123456+`, 2026-11-28" in text
    assert "| a (d) | b\\|c | 2 (1.5 – 2.5) | ≥ 3 | **no** | 4 x/s | 2 x/s |" in text
    assert "| pictures | update | 1, 4, 16 | 1, 4, 16 | 1.00 | ≤ 1.15 | yes | 5, 5, 5 | 0.00 | ≤ 0.15 | yes |" in text


@pytest.mark.parametrize(
    ("axis", "seconds", "mebibytes", "met"),
    [
        ("pictures", (1, 4, 16), (5, 6, 7), ["yes", "yes"]),
        ("pictures", (1, 6, 36), (5, 20, 80), ["**no**", "**no**"]),
        ("responses of each", (1, 4, 16), (5, 20, 80), ["yes", "yes"]),
        ("responses of each", (1, 4, 16), (5, 40, 320), ["yes", "**no**"]),
        ("tokens of each", (1, 16, 256), (5, 20, 80), ["**no**", "yes"]),
    ],
)
def test_growth_is_held_against_its_targets(axis, seconds, mebibytes, met):
    points = list(zip(seconds, mebibytes, strict=True))
    line = {"axis": axis, "stage": "update", "amounts": [1, 4, 16], "points": points}
    text = page({**kept(REPORT), "growth": [line]}).splitlines()
    head, cells = ([cell.strip() for cell in row.strip("|").split("|")] for row in (text[-3], text[-1]))
    assert [cell for name, cell in zip(head, cells, strict=True) if name == "met"] == met


def test_every_axis_that_grows_has_targets():
    assert set(AXES) == set(GROWTH_TARGETS)


# What must stand in the table, whatever else does: a benchmark that failed, or is gone, leaves its rows out.
PROMISED = {
    ("annotation, CLIP ViT-B/32", "one forward pass of CLIP a token"),
    ("annotation, CLIP ViT-B/32", "the image tower alone, pixels ready"),
    ("whole rounds, K = 4", "TRL GRPO, rewards summed a response"),
    ("ingestion", "decoding alone"),
    ("sampling, K = 4", "`generate`, one call a sample"),
    ("sampling, K = 4", "TRL GRPO's generation"),
    ("`import fisao_pipeline`", "`python -c pass`"),
    ("`kedro run --help`", "a bare project with kedro-mlflow"),
    ("a run of two nodes that do nothing", "a bare project with kedro-mlflow"),
    ("Kedro, MLflow and manifests in `train`", "the whole of it, one process from its start to its end"),
    ("optimiser steps, K = 8", "TRL GRPO's steps"),
    ("optimiser steps, K = 8", "forward and backward of the language model, packed alike"),
    ("update, K = 8", "TRL GRPO on the same rollouts"),
    ("update, peak tensor memory above the weights", "TRL GRPO on the same rollouts"),
    ("logprobs under policy and reference, K = 8", "whole forward passes, a row a response"),
}


def test_the_stored_table_has_every_row_and_is_the_one_in_the_documents():
    bench = json.loads((DOCS / "bench.json").read_text(encoding="utf-8"))
    assert {(row["title"], row["against"]) for row in bench["rows"]} >= PROMISED
    stages = {(line["axis"], line["stage"]) for line in bench["growth"]}
    assert stages == {(axis, stage) for axis in AXES for stage in ("sampling", "annotation", "update")}
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert put_table(text, page(bench)) == text
    assert (DOCS / "images" / "growth.png").is_file()
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert put_headline(readme, bench) == readme and "–" not in headline(bench)


def test_the_readme_says_of_a_row_that_is_missing_that_it_is():
    row = {"title": ROUND[0], "against": ROUND[1], "median": 2.5}
    assert "a whole round takes 40% of its time for each response (2.5 times as fast; sampling –," in " ".join(
        headline({"rows": [row, {"title": SAMPLING[0], "against": SAMPLING[1], "missing": "TRL is not there"}]}).split()
    )
    with pytest.raises(ValueError, match="speed"):
        put_headline("no markers", {"rows": []})


def test_exponents():
    assert exponent([1, 4, 16], [3, 12, 48]) == pytest.approx(1)
    assert exponent([1, 4, 16], [7, 7, 7]) == pytest.approx(0)
    assert exponent([1, 2, 4], [1, 4, 16]) == pytest.approx(2)


def test_the_documents_are_written_between_their_markers(tmp_path):
    report = tmp_path / "report.json"
    report.write_text(json.dumps(REPORT))
    (tmp_path / "benchmarks.md").write_text("before\n<!-- table -->\nold\n<!-- /table -->\nafter\n")
    readme = tmp_path / "README.md"
    readme.write_text("x\n<!-- speed -->\nold\n<!-- /speed -->\ny\n")
    main(report, tmp_path, readme)
    assert readme.read_text() == put_headline("x\n<!-- speed -->\n<!-- /speed -->\ny\n", kept(REPORT))
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.startswith("before\n<!-- table -->\n") and text.endswith("<!-- /table -->\nafter\n")
    assert "old" not in text and "**no**" in text
    assert json.loads((tmp_path / "bench.json").read_text()) == kept(REPORT)
    assert (tmp_path / "images" / "growth.png").stat().st_size > 0
