import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisao_pipeline.ingestion.splits import assign_split, require_splits
from fisao_pipeline.params.base import SPLITS

FRACTIONS = {"calibration": 0.2, "training": 0.5, "probe": 0.1, "held_out": 0.2}
CONTENTS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]
weights = st.lists(st.integers(0, 20), min_size=4, max_size=4).filter(any)


@given(weights, st.integers(0, 1000))
def test_fractions_are_approximately_respected(parts, seed):
    fractions = {split: part / sum(parts) for split, part in zip(SPLITS, parts, strict=True)}
    dealt = [assign_split(content, fractions, seed) for content in CONTENTS[:1000]]
    for split, fraction in fractions.items():
        # Five standard deviations of a share of 1000: chance alone never trips this.
        assert abs(dealt.count(split) / 1000 - fraction) <= 5 * (fraction * (1 - fraction) / 1000) ** 0.5


@given(st.sampled_from(SPLITS), st.text("0123456789abcdef", min_size=64, max_size=64), st.integers(0, 9))
def test_a_fraction_of_one_takes_all(split, content, seed):
    assert assign_split(content, {split: 1.0}, seed) == split


def test_a_sum_that_rounds_below_one_loses_nobody():
    fractions = {"calibration": 1e-12, "training": 1e-12, "probe": 0.0, "held_out": 0.0}
    assert {assign_split(content, fractions, 0) for content in CONTENTS} == {"training"}


def test_another_seed_deals_anew_and_the_same_seed_never_does():
    first = [assign_split(content, FRACTIONS, 0) for content in CONTENTS]
    assert first == [assign_split(content, FRACTIONS, 0) for content in CONTENTS]
    moved = sum(a != assign_split(content, FRACTIONS, 1) for a, content in zip(first, CONTENTS, strict=True))
    # Two independent deals agree with probability sum of squares = 0.34.
    assert abs(moved / len(CONTENTS) - 0.66) < 0.05


KNOWN = ["calibration", "training", "training", "training", "probe", "held_out"]


def test_known_assignments_stay_put():
    # Computed once: a change here moves users' held-out images into training.
    assert [assign_split(content, FRACTIONS, 0) for content in CONTENTS[:6]] == KNOWN


def test_an_empty_required_split_is_an_error_and_another_a_warning(make_params, caplog):
    with pytest.raises(ValueError, match=r"'calibration': raise `image_ingestion.split_fractions.calibration`"):
        require_splits({"training", "probe", "held_out"}, make_params())
    require_splits({"training", "calibration", "probe"}, make_params())
    assert "'held_out'" in caplog.text and "'probe'" not in caplog.text
