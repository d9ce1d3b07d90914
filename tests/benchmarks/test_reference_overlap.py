"""BLEU and ROUGE-L as their libraries define them: hand-computed cases."""

import pytest

from fisao_pipeline.benchmarks.reference_overlap import IMPLEMENTATION, reference_overlap


def test_the_same_words_are_one_whatever_the_case():
    assert reference_overlap(["A dog on a street"], [["a dog on a Street"]]) == ([pytest.approx(1.0)], [1.0])


def test_by_hand():
    # The longest common subsequence "a dog a street" has 4 words: precision 4/5, recall 4/4, F1 8/9.
    (bleu,), (rouge_l,) = reference_overlap(["a dog crosses a street"], [["a dog a street"]])
    assert rouge_l == pytest.approx(8 / 9)
    # Of 5, 4, 3, 2 n-grams 4, 2 match; the empty ones count ½ and ¼ of a match; the response is the longer one.
    assert bleu == pytest.approx((4 / 5 * 2 / 4 * (1 / 2) / 3 * (1 / 4) / 2) ** 0.25)


def test_the_best_reference_counts():
    _, (rouge_l,) = reference_overlap(["a dog"], [["two cats", "a dog"]])
    assert rouge_l == 1.0


def test_each_text_has_its_own_references_and_repeated_pairs_their_own_rows():
    texts = ["a dog", "a dog", "a dog", ""]
    _, rouge_l = reference_overlap(texts, [["a dog"], ["a cat"], ["a dog"], ["a dog"]])
    assert rouge_l == [1.0, 0.5, 1.0, 0.0]


def test_refuses_a_text_without_reference():
    with pytest.raises(ValueError, match="no reference caption for 'a dog'"):
        reference_overlap(["a dog"], [[]])


def test_says_which_implementation():
    assert "sacrebleu 2" in IMPLEMENTATION
    assert "rouge-score 0" in IMPLEMENTATION
