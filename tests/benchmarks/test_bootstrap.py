from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fisao_pipeline.benchmarks.bootstrap as bootstrap_module
from fisao_pipeline.benchmarks.bootstrap import (
    BootstrapSettings,
    Interval,
    bootstrap_changes,
    bootstrap_metrics,
    bootstrap_pearson,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "references"))
from slow_benchmarks import slow_bootstrap_sd

RATE = {"rate": ("hits", "total")}


def table(hits, total, image_ids=None) -> pd.DataFrame:
    ids = [f"{i:05d}" for i in range(len(hits))] if image_ids is None else image_ids
    return pd.DataFrame({"image_id": ids, "hits": hits, "total": total})


def random_table(n: int, seed: int = 0, rate: float = 0.3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    total = rng.integers(1, 8, n)
    return table(rng.binomial(total, rate), total)


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_spread_is_that_of_drawing_images_one_by_one():
    counts = random_table(60)
    wanted = slow_bootstrap_sd(list(counts["hits"]), list(counts["total"]), draws=4000, seed=1)
    # A central interval of 68.27% reaches one standard deviation to either side.
    interval = bootstrap_metrics(counts, RATE, BootstrapSettings(8000, confidence=0.6827))["rate"]
    assert width(interval) / 2 == pytest.approx(wanted, rel=0.05)


def test_binomial_interval_has_the_textbook_width():
    n = 400
    interval = bootstrap_metrics(table([1] * 100 + [0] * 300, [1] * n), RATE, BootstrapSettings(4000))["rate"]
    assert interval.value == 0.25
    assert width(interval) == pytest.approx(2 * 1.96 * np.sqrt(0.25 * 0.75 / n), rel=0.06)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_contains_the_value_and_shrinks_with_n(seed):
    small, large = (bootstrap_metrics(random_table(n, seed), RATE, BootstrapSettings(400))["rate"] for n in (40, 640))
    assert small.low <= small.value <= small.high
    assert large.low <= large.value <= large.high
    assert width(large) < 0.5 * width(small)


def test_more_confidence_is_wider():
    widths = [
        width(bootstrap_metrics(random_table(50), RATE, BootstrapSettings(1000, confidence))["rate"])
        for confidence in (0.5, 0.8, 0.95)
    ]
    assert widths == sorted(widths)
    assert len(set(widths)) == 3


def test_samples_of_one_image_move_together():
    """Eight copies of every row say nothing new, so the interval must not shrink."""
    once = random_table(50)
    copies = pd.concat([once] * 8, ignore_index=True)
    assert bootstrap_metrics(copies, RATE)["rate"] == bootstrap_metrics(once, RATE)["rate"]
    alone = copies.assign(image_id=[f"{i:05d}" for i in range(len(copies))])
    assert width(bootstrap_metrics(alone, RATE)["rate"]) < 0.5 * width(bootstrap_metrics(once, RATE)["rate"])


def test_row_order_and_seed():
    counts = random_table(30)
    shuffled = counts.sample(frac=1, random_state=1)
    assert bootstrap_metrics(shuffled, RATE) == bootstrap_metrics(counts, RATE)
    assert bootstrap_metrics(counts, RATE, BootstrapSettings(seed=1)) != bootstrap_metrics(counts, RATE)


def test_blocks_change_nothing(monkeypatch):
    counts, whole = random_table(30), bootstrap_metrics(random_table(30), RATE)
    monkeypatch.setattr(bootstrap_module, "_BLOCK_WEIGHTS", 30 * 7)
    assert bootstrap_metrics(counts, RATE) == whole


def test_pairing_cancels_what_images_share():
    base = random_table(100)
    aligned = base.assign(hits=np.maximum(base["hits"] - (np.arange(100) % 2), 0))
    difference, relative = bootstrap_changes(base, aligned, RATE)["rate"]
    alone = bootstrap_metrics(base, RATE)["rate"]
    assert width(difference) < 0.8 * width(alone)
    expected = aligned["hits"].sum() / aligned["total"].sum() - alone.value
    assert difference.value == pytest.approx(expected, rel=1e-12)
    assert relative.value == pytest.approx(expected / alone.value, rel=1e-12)
    assert difference.high < 0
    assert relative.low <= relative.value <= relative.high < 0


def test_no_change_is_zero_exactly():
    difference, relative = bootstrap_changes(random_table(30), random_table(30), RATE)["rate"]
    assert difference == relative == Interval(0.0, 0.0, 0.0)


def test_every_row_of_weights_draws_as_many_images():
    (weights,) = bootstrap_module._weight_blocks(25, BootstrapSettings(50))
    assert weights.shape == (50, 25)
    assert (weights.sum(axis=1) == 25).all()


def test_different_images():
    with pytest.raises(ValueError, match=r"same images for both models; they differ in \['b'\]"):
        bootstrap_changes(table([1], [1], ["a"]), table([1, 1], [1, 1], ["a", "b"]), RATE)


def test_undefined():
    empty = table([], [], [])
    assert bootstrap_metrics(empty, RATE)["rate"] == Interval(None, None, None)
    assert bootstrap_changes(empty, empty, RATE)["rate"] == (Interval(None, None, None),) * 2
    assert bootstrap_metrics(table([0, 0], [0, 0]), RATE)["rate"] == Interval(None, None, None)
    # One image: a value, but no interval of no width.
    assert bootstrap_metrics(table([1], [4]), RATE)["rate"] == Interval(0.25, None, None)
    # The base is zero: a difference, but no relative change.
    difference, relative = bootstrap_changes(table([0, 0], [2, 2]), table([1, 1], [2, 2]), RATE)["rate"]
    assert (difference.value, relative) == (0.5, Interval(None, None, None))


def test_resamples_without_denominator_are_left_out():
    interval = bootstrap_metrics(table([1, 0, 0], [1, 0, 0]), RATE)["rate"]
    assert interval == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize("arguments", [{"n_resamples": 0}, {"confidence": 1.0}, {"confidence": 0.0}])
def test_settings_refuse(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        BootstrapSettings(**arguments)


# --- Pearson's r ---------------------------------------------------------------------------------------------------


def pairs_of(n: int, copies: int = 1, seed: int = 0, slope: float = 0.5) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = slope * x + rng.normal(size=n)
    pairs = pd.DataFrame({"image_id": [f"{i:05d}" for i in range(n)], "x": x, "y": y})
    return pd.concat([pairs] * copies, ignore_index=True)


def test_pearson_by_hand():
    pairs = pd.DataFrame({"image_id": list("abcd"), "x": [1.0, 2.0, 3.0, 4.0], "y": [1.0, 3.0, 2.0, 4.0]})
    assert bootstrap_pearson(pairs).value == pytest.approx(0.8)
    assert bootstrap_pearson(pairs.assign(y=-pairs["x"])).value == pytest.approx(-1.0)


def test_pearson_is_the_same_in_other_units():
    pairs = pairs_of(50)
    straight, turned = bootstrap_pearson(pairs), bootstrap_pearson(pairs.assign(x=1e6 + 1e-3 * pairs["x"]))
    assert straight.value == pytest.approx(np.corrcoef(pairs["x"], pairs["y"])[0, 1], rel=1e-12)
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (straight.value, straight.low, straight.high), rel=1e-5
    )


def test_the_interval_of_r_is_that_of_fishers_z():
    found = bootstrap_pearson(pairs_of(400), BootstrapSettings(4000))
    reach = 1.959964 / np.sqrt(397)
    assert (found.low, found.high) == pytest.approx(
        np.tanh(np.arctanh(found.value) + np.array([-reach, reach])), abs=0.02
    )


def test_more_responses_of_the_same_images_make_r_no_surer():
    once, often = bootstrap_pearson(pairs_of(60)), bootstrap_pearson(pairs_of(60, copies=8))
    assert width(often) == pytest.approx(width(once), rel=1e-6)


@pytest.mark.parametrize("n", [0, 1])
def test_r_of_too_few(n):
    assert bootstrap_pearson(pairs_of(n)) == Interval(None, None, None)


def test_r_without_spread_is_undefined():
    assert bootstrap_pearson(pairs_of(20).assign(y=0.3)) == Interval(None, None, None)


def many_images(count: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    below = rng.poisson(4, count)
    return pd.DataFrame({"image_id": range(count), "above": rng.binomial(below, 0.1), "below": below})


def test_poisson_weights_give_the_intervals_of_multinomial_ones(monkeypatch):
    counts, metrics, settings_ = many_images(2000), {"ratio": ("above", "below")}, BootstrapSettings(4000)
    exact = bootstrap_metrics(counts, metrics, settings_)["ratio"]
    monkeypatch.setattr(bootstrap_module, "_MOST_MULTINOMIAL_IMAGES", 100)
    drawn = bootstrap_metrics(counts, metrics, settings_)["ratio"]
    assert drawn.value == exact.value and drawn.low != exact.low
    # An end of the interval varies by some 4% of a standard deviation, a quarter of the width, from draw to draw.
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.05 * (exact.high - exact.low))


def test_poisson_weights_have_mean_and_variance_one():
    weights = bootstrap_module._poisson_quantiles()
    assert weights.mean() == pytest.approx(1, abs=1e-4)
    assert weights.var() == pytest.approx(1, abs=1e-3)


def test_changes_of_many_images_are_paired():
    counts = many_images(6000)
    difference, _ = bootstrap_changes(counts, counts, {"ratio": ("above", "below")}, BootstrapSettings(100))["ratio"]
    assert (difference.low, difference.high) == (0, 0)


@pytest.mark.slow
def test_ten_thousand_resamples_of_as_many_images_as_val2014_take_five_seconds():
    from time import process_time

    counts = many_images(40_504)
    started = process_time()
    bootstrap_metrics(counts, {"ratio": ("above", "below")}, BootstrapSettings(10_000))
    assert process_time() - started <= 5
