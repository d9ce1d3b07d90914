"""MME: how answers are read, accuracy+, and sums over categories."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisao_pipeline.benchmarks.mme import COGNITION, PERCEPTION, mme_counts, parse_answer, score_mme


@pytest.mark.parametrize(
    ("response", "read"),
    [
        ("Yes, there is.", "yes"),
        ("YES", "yes"),
        (" yes", "yes"),
        ("No.", "no"),
        ("Not at all", "no"),
        # The habits of the reference: four characters, "yes" anywhere in them before "no" anywhere in them.
        ("Know", "no"),
        ("ayes", "yes"),
        ("  yes", "other"),
        ("The answer is yes", "other"),
        ("", "other"),
        ("Nyes", "yes"),
    ],
)
def test_parse_answer(response, read):
    assert parse_answer(response) == read


def rows(category: str, cases) -> pd.DataFrame:
    frame = pd.DataFrame(cases, columns=["image_id", "answer", "response"])
    return frame.assign(category=category, line=range(1, len(frame) + 1), item_id=frame["image_id"])


CASES = [("a", "Yes", "yes"), ("b", "Yes", "Yes"), ("a", "No", "no"), ("b", "No", "maybe")]


def test_accuracy_plus_needs_both_questions_of_an_image():
    counts = mme_counts(*zip(*CASES, strict=True))
    assert counts[["questions", "correct", "images", "all_correct"]].sum().tolist() == [4, 3, 2, 1]


def test_scores_are_sums_over_categories():
    right = [("a", "Yes", "yes"), ("a", "No", "no")]
    table = pd.concat([rows("existence", CASES), rows("color", right), rows("code_reasoning", right)])
    values = {name: interval.value for name, interval in score_mme(table).metrics.items()}
    assert values["existence.accuracy"] == 3 / 4
    assert values["existence.accuracy_plus"] == 1 / 2
    assert values["perception_score"] == pytest.approx(125 + 200)
    assert values["cognition_score"] == pytest.approx(200)
    assert values["score"] == pytest.approx(525)
    assert (len(PERCEPTION), len(COGNITION)) == (10, 4)


def test_a_category_of_ones_own_counts_into_the_whole_only():
    values = score_mme(rows("mine", CASES)).metrics
    assert set(values) == {"mine.accuracy", "mine.accuracy_plus", "score"}


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        (CASES[:3], "mme category x: image b has 1 MME questions, not 2"),
        ([("a", "?", "no")], "is yes or no, not '\\?'"),
    ],
)
def test_what_cannot_be_scored(cases, message):
    with pytest.raises(ValueError, match=message):
        score_mme(rows("x", cases))


@settings(deadline=None)
@given(st.permutations(CASES))
def test_the_order_of_rows_does_not_matter(cases):
    one, other = (score_mme(rows("x", some)).breakdowns["by_category"] for some in (CASES, cases))
    pd.testing.assert_frame_equal(one, other)
