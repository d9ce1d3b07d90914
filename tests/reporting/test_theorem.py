"""The curves and the figure, at the base settings with fewer draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from fisao_pipeline.params.theorem import TheoremParams
from fisao_pipeline.reporting.theorem import theorem_curves, theorem_figure

BASE = Path(__file__).parents[2] / "conf" / "base" / "parameters_theorem.yml"


def base_params(**changed: float) -> TheoremParams:
    return TheoremParams(**{**yaml.safe_load(BASE.read_text())["theorem"], "samples": 2000, **changed})


@pytest.fixture(scope="module")
def traced():
    return theorem_curves(base_params())


def test_feedback_helps_and_the_control_does_not(traced):
    curves, summary = traced
    by_feedback = {name: curve.reset_index() for name, curve in curves.groupby("feedback")}
    informative, control = by_feedback["informative"], by_feedback["control"]
    assert informative["expected_loss"].min() < 0.8 * summary["loss_at_zero"]
    assert control["expected_loss"].is_monotonic_increasing
    assert control["expected_loss"].min() == pytest.approx(summary["loss_at_zero"])
    assert informative["expected_loss"][0] == pytest.approx(summary["loss_at_zero"])
    assert len(informative) == len(control) == base_params().vision_weights


def test_the_simulation_shows_it_too(traced):
    curves, _ = traced
    deviations = (curves["simulated_loss"] - curves["expected_loss"]) / curves["standard_error"]
    assert np.abs(deviations).max() < 4
    informative = curves[curves["feedback"] == "informative"].reset_index()
    lowest, first = informative.loc[informative["simulated_loss"].idxmin()], informative.loc[0]
    assert lowest["simulated_loss"] + 5 * lowest["standard_error"] < first["simulated_loss"]


def test_summary_holds_together(traced):
    _, summary = traced
    assert summary["missed_and_seen"] > 0
    informative, control = summary["informative"], summary["control"]
    assert informative["slope_at_zero"] < 0
    drop = summary["missed_and_seen"] ** 2 / summary["feedback_power"]
    assert informative["change"] == pytest.approx(-drop)
    assert informative["lowest_loss"] == pytest.approx(summary["loss_at_zero"] - drop)
    assert control == {
        "slope_at_zero": 0,
        "best_vision_weight": 0,
        "lowest_loss": summary["loss_at_zero"],
        "change": 0,
    }


def test_an_unbiased_policy_has_nothing_to_gain():
    _, summary = theorem_curves(base_params(ignored_share=0, vision_weights=2))
    assert summary["informative"]["change"] == pytest.approx(0, abs=1e-9)


def test_figure(traced):
    curves, summary = traced
    figure = theorem_figure(curves, summary)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(lines) == len(points) == 2
    for line, point, feedback in zip(lines, points, ("informative", "control"), strict=True):
        curve = curves[curves["feedback"] == feedback]
        np.testing.assert_array_equal(line.y, curve["expected_loss"])
        np.testing.assert_array_equal(point.y, curve["simulated_loss"])
        np.testing.assert_array_equal(point.error_y.array, 2 * curve["standard_error"])
    assert {shape.y0 for shape in figure.layout.shapes} >= {summary["loss_at_zero"]}
    assert "λ" in figure.layout.xaxis.title.text


def test_the_lowest_loss_is_marked_only_where_it_is_drawn():
    params = base_params(max_vision_weight=0.1, vision_weights=2)
    assert len(theorem_figure(*theorem_curves(params)).layout.shapes) == 1
