from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisao_pipeline.method.preferences import best_response, widest_pairs

SCORES = st.lists(st.integers(-3, 3).map(float) | st.just(math.nan), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("scores", "count", "min_gap", "pairs"),
    [
        ([1.0, 4.0, 2.0], 1, 0.0, [(1, 0)]),
        ([1.0, 4.0, 2.0], 2, 0.0, [(1, 0), (1, 2)]),
        ([1.0, 4.0, 2.0], 9, 0.0, [(1, 0), (1, 2), (2, 0)]),
        ([1.0, 4.0, 2.0], 9, 1.0, [(1, 0), (1, 2)]),  # a gap of 1 is not more than 1
        ([2.0, 2.0, 1.0], 2, 0.0, [(0, 2), (1, 2)]),
        ([2.0, 1.0, 3.0], 3, 0.0, [(2, 1), (0, 1), (2, 0)]),  # of the same gap: by the better one, then the worse
        ([2.0, 2.0], 3, 0.0, []),
        ([2.0], 3, 0.0, []),
        ([math.nan, 2.0, 3.0], 3, 0.0, [(2, 1)]),
        ([math.nan, 2.0], 3, 0.0, []),
    ],
)
def test_pairs_by_hand(scores, count, min_gap, pairs) -> None:
    assert widest_pairs(scores, count, min_gap) == pairs


def test_the_smallest_gap_is_enough_unless_a_wider_one_is_asked_for() -> None:
    assert widest_pairs([0.0, 0.25], 1) == [(1, 0)]
    assert best_response([0.0, 0.25]) == 1
    assert best_response([0.0, 0.25], 0.25) is None


@given(scores=SCORES, count=st.integers(1, 20), min_gap=st.sampled_from([0.0, 1.0, 2.5]))
def test_no_pair_that_was_left_out_is_wider(scores, count, min_gap) -> None:
    pairs = widest_pairs(scores, count, min_gap)
    gaps = [scores[better] - scores[worse] for better, worse in pairs]
    assert all(gap > min_gap for gap in gaps)
    assert gaps == sorted(gaps, reverse=True)
    assert len(set(pairs)) == len(pairs)
    everything = [a - b for a in scores for b in scores if a - b > min_gap]
    assert gaps == sorted(everything, reverse=True)[:count]


@given(scores=SCORES, min_gap=st.sampled_from([0.0, 1.0, 2.5]))
def test_the_best_has_the_highest_score_and_beats_the_worst(scores, min_gap) -> None:
    known = [score for score in scores if not math.isnan(score)]
    best = best_response(scores, min_gap)
    if not known or max(known) - min(known) <= min_gap:
        assert best is None
    else:
        assert best == scores.index(max(known))


def test_a_negative_gap_would_make_pairs_of_ties() -> None:
    for function in (lambda: widest_pairs([1.0, 1.0], 1, -1.0), lambda: best_response([1.0], -1.0)):
        with pytest.raises(ValueError, match="min_gap must not be negative"):
            function()
