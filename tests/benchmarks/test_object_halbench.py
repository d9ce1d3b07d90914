"""Object HalBench: what is counted of extracted objects."""

from __future__ import annotations

import pandas as pd
import pytest

from fisao_pipeline.benchmarks.object_halbench import halbench_item, score_halbench
from fisao_pipeline.method.object_spans import ObjectVocabulary

COCO = ObjectVocabulary.from_name("coco")


def test_a_word_counts_once_and_two_words_of_one_category_twice():
    item = halbench_item(["Bike", "bike ", "bicycle", "bikes"], frozenset(), COCO)
    assert [word for word, _ in item.words] == ["bike", "bicycle", "bikes"]
    assert len(item.hallucinated) == 3


def test_a_seat_is_no_chair_beside_a_toilet():
    assert halbench_item(["seat"], frozenset(), COCO).words == (("seat", "chair"),)
    assert halbench_item(["seat", "toilet"], frozenset(), COCO).words == (("toilet", "toilet"),)


def test_words_that_the_vocabulary_does_not_hold_are_not_counted():
    assert halbench_item(["sky", "unicorn"], frozenset(), COCO).words == ()


def test_figures_hand_computed():
    extracted = [["dog", "cat"], ["sky"], ["puppy", "car"], []]
    rows = pd.DataFrame({"line": [1, 2, 3, 4], "item_id": list("aabc"), "response": extracted})
    objects = {"a": ["dog"], "b": ["dog"], "c": []}
    scores = score_halbench(rows, objects, {"b": ["A car."]}, COCO, word_chain="reference")
    assert {name: interval.value for name, interval in scores.metrics.items()} == pytest.approx(
        {
            "object_hallucination": 1 / 4,
            "response_hallucination": 1 / 2,
            "response_hallucination_of_all": 1 / 4,
            "object_recall": 3 / 4,
        }
    )
