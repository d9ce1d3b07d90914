"""The artifact, the table and the plot of a study."""

import json

import pytest

from fisao_pipeline.experiments.plot import plot_arms
from fisao_pipeline.experiments.results import format_study, summarise
from fisao_pipeline.params import Arm

ARMS = (Arm(name="default", set={}), Arm(name="margin", set={"reward_annotation.rule": "margin"}))


def interval(value):
    return {"value": value, "low": None, "high": None}


def metrics(chair, recall):
    return {
        name: interval(value)
        for name, value in {
            "chair_i": chair,
            "chair_s": 0.5,
            "recall": recall,
            "objects_per_caption": 3.0,
            "repeated_mentions": 0.125,
            "pope_accuracy": 0.9,
        }.items()
    }


def record(arm, seed, chair, recall=0.8, base_key="b"):
    comparison = {
        "base": {d: metrics(0.3, 0.95) for d in ("greedy", "sampled")},
        "aligned": {d: metrics(chair, recall) for d in ("greedy", "sampled")},
        "change": {d: metrics(None, 0.0) for d in ("greedy", "sampled")},
        "settings": {},
        "notes": [],
    }
    history = [{"round": -1.0, "kept": False}, {"round": 0.0, "kept": True}]
    rest = {"key": f"{arm}-{seed}", "information": {}, "seconds": {}, "parameters": {}, "inputs": {}}
    return {"arm": arm, "seed": seed, "base_key": base_key, "comparison": comparison, "history": history, **rest}


def study(**of_margin):
    return [
        record("default", 0, 0.1),
        record("margin", 0, 0.2, **of_margin),
        record("default", 1, 0.2),
        record("margin", 1, 0.4, **of_margin),
    ]


@pytest.fixture
def result():
    return summarise(study(), ARMS, 0.95)


def test_every_arm_has_its_own_means(result):
    chair = {name: arm["aligned"]["greedy"]["chair_i"]["mean"] for name, arm in result["arms"].items()}
    assert chair == pytest.approx({"default": 0.15, "margin": 0.3})
    assert result["arms"]["margin"]["set"] == {"reward_annotation.rule": "margin"}
    assert result["settings"] == {"seeds": [0, 1], "interval": "Student's t over seeds", "confidence": 0.95}
    assert [(row["arm"], row["seed"], row["kept_round"]) for row in result["rows"]] == [
        ("default", 0, 0),
        ("margin", 0, 0),
        ("default", 1, 0),
        ("margin", 1, 0),
    ]
    json.dumps(result, allow_nan=False)


def test_the_table_has_the_base_first_and_then_the_arms(result):
    greedy, sampled = (part.strip().splitlines() for part in format_study(result).split("decoding\n")[1:])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in greedy if line.startswith("|")]
    assert cells[0] == [
        "arm",
        "CHAIR_i, % ↓",
        "CHAIR_s, % ↓",
        "object recall, % ↑",
        "repeated mentions per caption ↓",
        "POPE accuracy, % ↑",
    ]
    assert cells[2] == ["base", "30.0", "50.0", "95.0", "0.12", "90.0"]
    assert cells[3][:3] == ["default", "15.0 ± 7.1", "50.0 ± 0.0"]
    assert cells[4][:2] == ["margin", "30.0 ± 14.1"]
    assert len([line for line in sampled if line.startswith("|")]) == 5


def test_arms_with_other_evaluation_settings_have_a_base_of_their_own():
    result = summarise(study(base_key="other"), ARMS, 0.95)
    assert [base["arms"] for base in result["base"]] == [["default"], ["margin"]]
    lines = format_study(result).splitlines()
    assert any(line.startswith("| base of default") for line in lines)
    assert any(line.startswith("| base of margin") for line in lines)


def test_an_undefined_metric_is_a_dash():
    records = [record("default", 0, None), record("margin", 0, 0.2)]
    result = summarise(records, ARMS, 0.95)
    assert "| default | –" in format_study(result)
    assert "| margin  | 20.0 " in format_study(result), "and one seed has no spread"


def test_the_plot_shows_base_and_arms_in_percent(result):
    figure = plot_arms(result)
    traces = [(t.name, t.x[0], t.y[0]) for t in figure.data if t.xaxis == "x"]
    assert traces == [
        ("base", 95.0, 30.0),
        ("default", 80.0, pytest.approx(15.0)),
        ("margin", 80.0, pytest.approx(30.0)),
    ]
    summary = result["arms"]["default"]["aligned"]["greedy"]["chair_i"]
    default = figure.data[1]
    assert default.error_y.array[0] == pytest.approx(100 * (summary["high"] - summary["mean"]))
    colours = {t.name: set() for t in figure.data}
    for trace in figure.data:
        colours[trace.name].add(trace.marker.color)
    assert all(len(used) == 1 for used in colours.values()), "one colour in all panels"
    assert sum(bool(t.showlegend) for t in figure.data) == 3


def test_an_arm_that_names_nothing_is_not_in_the_plot():
    result = summarise([record("default", 0, None), record("margin", 0, 0.2)], ARMS, 0.95)
    assert {trace.name for trace in plot_arms(result).data} == {"base", "margin"}
