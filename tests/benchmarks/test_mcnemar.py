"""McNemar's test against scipy's binomial test and a case by hand; answers paired question by question."""

import pandas as pd
import pytest
from scipy.stats import binomtest

from fisao_pipeline.benchmarks.mcnemar import EXACT_BELOW, mcnemar_of_answers, mcnemar_test


@pytest.mark.parametrize("b", range(0, 13))
@pytest.mark.parametrize("c", range(0, 12))
def test_few_discordant_pairs_are_tested_exactly(b, c):
    result = mcnemar_test(b, c)
    assert result["method"] == "exact" and result["statistic"] == min(b, c)
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert result["p_value"] == pytest.approx(expected, rel=1e-12)


def test_by_hand():
    """1 and 6: p = 2 · (C(7,0) + C(7,1)) / 2⁷ = 16/128."""
    assert mcnemar_test(1, 6)["p_value"] == pytest.approx(0.125)
    many = mcnemar_test(121, 59)
    assert many["method"] == "chi2"
    assert many["statistic"] == pytest.approx(61**2 / 180)
    assert many["p_value"] == pytest.approx(5.45e-6, rel=1e-2)


def test_both_ways_agree_where_one_takes_over_from_the_other():
    exact, approximate = mcnemar_test(8, EXACT_BELOW - 9), mcnemar_test(8, EXACT_BELOW - 8)
    assert (exact["method"], approximate["method"]) == ("exact", "chi2")
    assert binomtest(8, EXACT_BELOW, 0.5).pvalue == pytest.approx(approximate["p_value"], rel=0.1)


def test_who_is_called_base_does_not_matter():
    for b, c in ((0, 5), (3, 40)):
        assert mcnemar_test(b, c) == mcnemar_test(c, b)


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="negative"):
        mcnemar_test(-1, 3)


def answers(
    said: dict[str, list[str]], strategies=("random", "random", "random", "popular", "popular")
) -> pd.DataFrame:
    """Four questions; the third is asked by two strategies and has one answer."""
    asked = [("1", "dog?", "yes"), ("1", "cat?", "no"), ("2", "bus?", "yes"), ("2", "bus?", "yes"), ("2", "cat?", "no")]
    rows = [
        {"model": model, "image_id": image, "prompt": prompt, "answer": answer, "response": response}
        | {"pope_strategy": strategy}
        for model, responses in said.items()
        for (image, prompt, answer), strategy, response in zip(asked, strategies, responses, strict=True)
    ]
    return pd.DataFrame(rows)


SAID = {"base": ["Yes", "Yes", "No", "No", "No"], "aligned": ["No", "No", "Yes", "Yes", "No"]}


def test_answers_by_strategy_and_altogether_each_question_once():
    found = mcnemar_of_answers(answers(SAID), "reference")
    counts = {
        name: [test[k] for k in ("questions", "both_right", "only_base_right", "only_aligned_right", "both_wrong")]
        for name, test in found.items()
    }
    assert counts == {"all": [4, 1, 1, 2, 0], "random": [3, 0, 1, 2, 0], "popular": [2, 1, 0, 1, 0]}
    assert found["all"]["p_value"] == 1.0


def test_the_order_of_the_rows_does_not_matter():
    rows = answers(SAID)
    assert mcnemar_of_answers(rows.sample(frac=1, random_state=1), "reference") == mcnemar_of_answers(rows, "reference")


def test_an_answer_that_is_neither_is_wrong():
    rows = answers({**SAID, "aligned": ["Perhaps", "No", "Yes", "Yes", "No"]})
    assert mcnemar_of_answers(rows, "strict")["all"]["only_base_right"] == 1
    assert mcnemar_of_answers(rows, "reference")["all"]["both_right"] == 2, "the reference reads it as yes"


def test_several_samples_of_a_question_are_paired_one_by_one():
    rows = answers(SAID)
    twice = mcnemar_of_answers(pd.concat([rows, rows], ignore_index=True), "reference")
    assert twice["all"]["questions"] == 8 and twice["all"]["only_aligned_right"] == 4


def test_without_strategies_and_without_questions():
    rows = answers(SAID).drop(columns="pope_strategy").iloc[[0, 1, 2, 4, 5, 6, 7, 9]]
    assert list(mcnemar_of_answers(rows, "reference")) == ["all"]
    assert mcnemar_of_answers(rows.iloc[:0], "reference") == {}
