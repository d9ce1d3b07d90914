"""Positions of the small drawings in table cells."""

import pytest

from fisao_pipeline.reporting.marks import MARGIN, change_mark, models_mark, reach

END = 100 - MARGIN


def interval(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def test_both_models_on_one_axis():
    base, aligned = models_mark(interval(0.5, 0.0, 1.0), interval(1.0), 1.0).whiskers
    assert (base.low, base.value, base.high, base.colour) == (MARGIN, 50, END, "grey")
    assert (aligned.low, aligned.value, aligned.high, aligned.colour) == (END, END, END, "green")
    assert len(models_mark(interval(None), interval(1.0), 1.0).whiskers) == 1


def test_a_change_is_drawn_around_zero():
    mark = change_mark(interval(-1.0, -2.0, 0.0), 2.0)
    (whisker,) = mark.whiskers
    assert (whisker.low, whisker.high, mark.zero) == (MARGIN, 50, 50)
    assert whisker.value == pytest.approx((MARGIN + 50) / 2)
    assert change_mark(interval(None), 1.0) is None
    assert change_mark(interval(5.0), 1.0).whiskers[0].value == END, "nothing leaves the cell"


def test_the_axis_holds_all_bounds():
    assert reach([interval(-1, -3, 0), interval(2)]) == 3
    assert reach([interval(None), interval(0, 0, 0)]) == reach([]) == 1
