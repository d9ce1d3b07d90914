from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisao_pipeline.benchmarks.chair import (
    CHAIR_METRICS,
    ChairItem,
    category_counts,
    category_rates,
    chair_by_position,
    chair_counts,
    chair_item,
    chair_metrics,
    chair_truth,
)
from fisao_pipeline.benchmarks.chair_words import spans_chain
from fisao_pipeline.benchmarks.ratios import ratios_of_sums
from fisao_pipeline.method.object_spans import ObjectVocabulary

sys.path.insert(0, str(Path(__file__).parents[1] / "references"))
from slow_benchmarks import slow_chair

COCO = ObjectVocabulary.from_name("coco")
CATEGORIES = frozenset(COCO.categories)
DATA = Path(__file__).parents[3] / "shared" / "data" / "chair"
METRICS = list(CHAIR_METRICS)


def item(caption: str, objects: list[str], image_id: str = "1", known: frozenset[str] = CATEGORIES) -> ChairItem:
    return chair_item(image_id, caption, objects, word_chain=spans_chain(COCO), annotated_categories=known)


def test_hand_computed():
    items = [
        item("A dog, a cat and another dog with two dogs.", ["dog", "car"]),
        item("Nothing here.", ["dog"], "2"),
        item("A bus and a bus.", ["bus", "bus"], "3"),
    ]
    assert items[0].mentioned == ("dog", "cat", "dog", "dog")
    assert items[0].hallucinated == ("cat",)
    assert items[0].named == ("dog",)
    assert items[0].true_objects == ("car", "dog")
    assert items[0].repeated == 2
    assert items[0].unscored == 0
    assert chair_metrics(items) == {
        "chair_i": 1 / 6,
        "chair_s": 1 / 3,
        "recall": 2 / 4,
        "objects_per_caption": 6 / 3,
        "repeated_mentions": 3 / 3,
        "n": 3,
    }


def test_duplicates_count_twice():
    assert chair_metrics([item("a cat and a cat and a dog", ["dog"])])["chair_i"] == 2 / 3


def test_categories_that_the_annotations_cannot_know_are_not_scored():
    scored = item("a dog, a kite and a cat", ["dog"], known=frozenset({"dog", "cat"}))
    assert scored.mentioned == ("dog", "cat")
    assert scored.hallucinated == ("cat",)
    assert scored.unscored == 1


def test_object_outside_the_annotated_categories():
    with pytest.raises(ValueError, match=r"image 1: objects \['kite'\] are not among"):
        item("a dog", ["dog", "kite"], known=frozenset({"dog"}))


def test_undefined_is_none_and_not_zero():
    assert chair_metrics([item("Nothing.", [])]) == {
        "chair_i": None,
        "chair_s": 0.0,
        "recall": None,
        "objects_per_caption": 0.0,
        "repeated_mentions": 0.0,
        "n": 1,
    }
    assert chair_metrics([]) == {**dict.fromkeys(METRICS), "n": 0}


def test_counts_give_the_metrics():
    counts = chair_counts([item("a dog and a cat", ["dog"], "7"), item("a bus", ["car"], "8")])
    assert list(counts["image_id"]) == ["7", "8"]
    assert ratios_of_sums(counts, CHAIR_METRICS)["chair_i"] == 2 / 3
    assert list(counts.drop(columns="image_id").dtypes.unique()) == ["int64"]


def test_truth_is_what_is_annotated_and_what_the_reference_captions_name():
    assert chair_truth(["dog"], ["A puppy and a bus.", "Nothing."], spans_chain(COCO)) == {"dog", "bus"}
    assert chair_truth([], [], spans_chain(COCO)) == frozenset()


def by_category(items):
    return category_rates(category_counts(items))


def test_by_category_hand_computed():
    table = by_category([item("A dog, a cat, another dog", ["dog", "car"]), item("a cat", ["cat"], "2")])
    assert table.replace({float("nan"): None}).to_dict("records") == [
        {"category": "cat", "mentions": 2, "hallucinated": 1, "chair_i": 0.5, "images": 1, "named": 1, "recall": 1.0},
        {"category": "dog", "mentions": 2, "hallucinated": 0, "chair_i": 0.0, "images": 1, "named": 1, "recall": 1.0},
        {"category": "car", "mentions": 0, "hallucinated": 0, "chair_i": None, "images": 1, "named": 0, "recall": 0.0},
    ]
    assert by_category([]).empty


def test_by_position_hand_computed():
    items = [item("a dog, a cat, a cat and a dog", ["dog"]), item("a cat", ["dog"], "2"), item("none", ["dog"], "3")]
    assert chair_by_position(items, last=3).to_dict("records") == [
        {"position": 1, "mentions": 2, "hallucinated": 1, "chair_i": 0.5},
        {"position": 2, "mentions": 1, "hallucinated": 1, "chair_i": 1.0},
        {"position": 3, "mentions": 2, "hallucinated": 1, "chair_i": 0.5},
    ]
    assert chair_by_position([]).empty


SOME = st.sampled_from(["dog", "cat", "bus", "car"])
CASES = st.lists(st.tuples(st.lists(SOME, min_size=1), st.sets(SOME, min_size=1)), min_size=1, max_size=8)


@settings(deadline=None)
@given(CASES, st.randoms())
def test_agrees_with_counting_one_by_one_in_any_order(cases, rng):
    items = [item(" and ".join(words), sorted(truth)) for words, truth in cases]
    for table in (by_category(items), chair_by_position(items, last=2)):
        assert table["mentions"].sum() == sum(len(one.mentioned) for one in items)
        assert table["hallucinated"].sum() == sum(len(one.hallucinated) for one in items)
    expected = slow_chair([words for words, _ in cases], [truth for _, truth in cases])
    rng.shuffle(items)
    assert {name: chair_metrics(items)[name] for name in METRICS} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-12
    )


@pytest.fixture(scope="module")
def reference_captions() -> pd.DataFrame:
    if not DATA.is_dir():
        pytest.skip("the reference captions and CHAIR's answers to them are not part of the project")
    captions = pd.read_json(DATA / "llava15_7b_greedy_500.jsonl", lines=True)
    expected = pd.read_json(DATA / "llava15_7b_greedy_500_expected.jsonl", lines=True)
    truths = json.loads((DATA / "coco_val2014_objects_500.json").read_text())
    assert list(captions["image_id"]) == list(expected["image_id"])
    return captions.assign(
        mentions=expected["mentions"],
        hallucinated=expected["hallucinated"],
        objects=[truths[str(image_id)] for image_id in captions["image_id"]],
    )


def scored(captions: pd.DataFrame) -> list[ChairItem]:
    columns = (captions["image_id"].astype(str), captions["caption"], captions["objects"])
    return [item(caption, objects, image_id) for image_id, caption, objects in zip(*columns, strict=True)]


def test_real_captions_give_the_reference_figures(reference_captions):
    items = scored(reference_captions)
    metrics = chair_metrics(items)
    assert metrics["chair_i"] == pytest.approx(0.12784, abs=0.01)
    assert metrics["chair_s"] == pytest.approx(0.450, abs=0.005)
    assert metrics["recall"] == pytest.approx(0.7979, abs=0.01)
    same = [list(one.mentioned) == words for one, words in zip(items, reference_captions["mentions"], strict=True)]
    assert sum(same) >= 475


def test_every_difference_from_the_reference_is_a_known_one(reference_captions):
    """Its singularizer loses "bus" and "ties"; it counts "toilet ... seat" and "stove top oven" otherwise."""
    more, fewer = Counter(), Counter()
    for one, words in zip(scored(reference_captions), reference_captions["mentions"], strict=True):
        more += Counter(one.mentioned) - Counter(words)
        fewer += Counter(words) - Counter(one.mentioned)
    assert set(more) <= {"bus", "cake", "tie", "chair"}
    assert set(fewer) <= {"oven"}
    assert more.total() + fewer.total() <= 70


def test_reference_words_give_the_reference_numbers_exactly(reference_captions):
    """Scoring alone, with the reference's own words for each caption."""
    words = dict(zip(reference_captions["caption"], reference_captions["mentions"], strict=True))
    items = [
        chair_item(str(row.image_id), row.caption, row.objects, word_chain=words.get, annotated_categories=CATEGORIES)
        for row in reference_captions.itertuples()
    ]
    assert [list(one.hallucinated) for one in items] == list(reference_captions["hallucinated"])
    metrics = chair_metrics(items)
    assert metrics["chair_i"] == pytest.approx(0.12784, abs=5e-6)
    assert metrics["chair_s"] == pytest.approx(0.450, abs=1e-12)
    assert metrics["recall"] == pytest.approx(0.7979, abs=5e-5)
