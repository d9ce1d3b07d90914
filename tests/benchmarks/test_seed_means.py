"""Means over seeds and their intervals, by hand and against scipy."""

import numpy as np
import pytest
from scipy import stats

from fisao_pipeline.benchmarks.seed_means import seed_means


def comparison(**values):
    """Metrics of the aligned model in greedy decoding; the change is the same plus one."""
    aligned = {name: {"value": value, "low": None, "high": None} for name, value in values.items()}
    change = {n: {"value": None if v is None else v + 1, "low": None, "high": None} for n, v in values.items()}
    return {"base": {"greedy": {}}, "aligned": {"greedy": aligned}, "change": {"greedy": change}}


def test_three_seeds_by_hand():
    """t of 2 degrees of freedom at 97.5% is 4.3027, the standard error 1 / √3."""
    means = seed_means([comparison(recall=1.0), comparison(recall=2.0), comparison(recall=3.0)])
    summary = means["aligned"]["greedy"]["recall"]
    assert summary == pytest.approx(
        {"mean": 2.0, "std": 1.0, "low": 2 - 4.302653 / 3**0.5, "high": 2 + 4.302653 / 3**0.5, "n": 3}
    )
    assert means["change"]["greedy"]["recall"]["mean"] == 3.0
    assert "base" not in means


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_is_students(confidence):
    values = np.random.default_rng(0).normal(size=5).tolist()
    summary = seed_means([comparison(recall=v) for v in values], confidence)["aligned"]["greedy"]["recall"]
    expected = stats.t.interval(confidence, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (summary["low"], summary["high"]) == pytest.approx(expected)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    """Over many studies of three seeds; an interval by the normal distribution would cover 81% only."""
    draws = np.random.default_rng(1).normal(size=(2000, 3))
    summaries = [seed_means([comparison(x=v) for v in row])["aligned"]["greedy"]["x"] for row in draws.tolist()]
    covered = sum(summary["low"] < 0 < summary["high"] for summary in summaries) / 2000
    assert covered == pytest.approx(0.95, abs=0.02)


def test_one_seed_has_no_spread():
    summary = seed_means([comparison(recall=0.5)])["aligned"]["greedy"]["recall"]
    assert summary == {"mean": 0.5, "std": None, "low": None, "high": None, "n": 1}


def test_a_metric_that_one_seed_does_not_define_is_left_out():
    means = seed_means([comparison(recall=0.5, chair_i=None), comparison(recall=0.7, chair_i=0.2)])
    assert set(means["aligned"]["greedy"]) == {"recall"}


def test_the_order_of_seeds_does_not_matter():
    forth = seed_means([comparison(x=1.0), comparison(x=5.0), comparison(x=2.0)])
    back = seed_means([comparison(x=2.0), comparison(x=5.0), comparison(x=1.0)])
    assert forth == back


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(ValueError, match="at least one seed"):
        seed_means([])
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, not 95"):
        seed_means([comparison(x=1.0)], 95)
