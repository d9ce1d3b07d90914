"""The effect by category against CHAIR of that category alone; images won, lost and tied by hand."""

import json

import pandas as pd
import pytest

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings
from fisao_pipeline.benchmarks.category_effects import category_effects
from fisao_pipeline.benchmarks.chair import chair_item
from fisao_pipeline.benchmarks.chair_words import spans_chain
from fisao_pipeline.benchmarks.comparison import compare
from fisao_pipeline.benchmarks.examples import win_lose_tie
from fisao_pipeline.method.object_spans import ObjectVocabulary

COCO = ObjectVocabulary.from_name("coco")
QUICK = BootstrapSettings(n_resamples=300)
TRUTH = {"1": ["dog"], "2": ["bus", "car"], "3": ["bicycle", "car"], "4": ["dog", "cat"], "5": [], "6": ["cat"]}
SAID = {
    "base": {
        "1": ["a dog, a cat and a kite", "a cat"],
        "2": ["a bus, a bus and a kite", "a car"],
        "3": ["a car", "a bike"],
        "4": ["a dog", "a dog and a cat"],
        "5": ["a cat", "nothing"],
        "6": ["a cat", "a cat"],
    },
    "aligned": {
        "1": ["a dog", "a cat"],
        "2": ["a bus", "a bus and a tie"],
        "3": ["a car and a tie", "a bike and a tie"],
        "4": ["a cat", "a dog"],
        "5": ["nothing", "nothing"],
        "6": ["nothing", "a cat"],
    },
}


def items():
    chain = spans_chain(COCO)
    return {
        model: [
            chair_item(image, text, TRUTH[image], word_chain=chain, annotated_categories=COCO.categories)
            for image, texts in said.items()
            for text in texts
        ]
        for model, said in SAID.items()
    }


def captions():
    return {
        model: [{"prompt": "Describe.", "response": text} for texts in said.values() for text in texts]
        for model, said in SAID.items()
    }


def predictions() -> pd.DataFrame:
    rows = [
        {"model": model, "decoding": "sampled", "task": "caption", "image_id": image, "prompt": "Describe."}
        | {"answer": None, "response": text}
        for model, said in SAID.items()
        for image, texts in said.items()
        for text in texts
    ]
    return pd.DataFrame(rows)


# --- by category ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def effects():
    return category_effects(items(), QUICK)


def test_counts_by_hand(effects):
    rows = {row["category"]: row for row in effects["categories"]}
    assert effects["categories"][0]["category"] == "cat", "the most often named comes first"
    assert rows["cat"]["base"] == {
        "mentions": 6,
        "hallucinated": 3,
        "images": 4,
        "named": 3,
        "chair_i": 1 / 2,
        "recall": 3 / 4,
    }
    assert rows["tie"]["base"]["chair_i"] is None and rows["tie"]["aligned"]["chair_i"] == 1
    assert rows["tie"]["aligned"]["recall"] is None
    assert rows["kite"]["change"]["hallucinated_per_caption"]["value"] == pytest.approx(-2 / 12)
    assert rows["bus"]["base"]["mentions"] == 2, "every mention counts"
    assert rows["bus"]["base"]["named"] == 1, "in a caption once"


@pytest.mark.parametrize("category", ["cat", "dog", "car", "bus", "bicycle"])
def test_a_category_is_chair_of_that_category_alone(effects, category):
    annotations = pd.DataFrame({"image_id": list(TRUTH), "objects": list(TRUTH.values())})
    alone = compare(predictions(), annotations, COCO, annotated_categories=[category], settings=QUICK)
    (row,) = (row for row in effects["categories"] if row["category"] == category)
    for metric in ("chair_i", "recall"):
        assert row["change"][metric] == pytest.approx(alone["change"]["sampled"][metric])
        for model in ("base", "aligned"):
            assert row[model][metric] == pytest.approx(alone[model]["sampled"][metric]["value"])
    assert row["change"]["mentions_per_caption"] == pytest.approx(alone["change"]["sampled"]["objects_per_caption"])


def test_how_many_intervals_there_are_and_how_many_would_miss_zero_by_chance(effects):
    bounded = [i for row in effects["categories"] for i in row["change"].values() if i["low"] is not None]
    assert effects["intervals"] == len(bounded)
    assert effects["without_zero"] == sum(not i["low"] <= 0 <= i["high"] for i in bounded)
    assert effects["by_chance"] == round(0.05 * len(bounded), 1)
    assert f"{effects['intervals']} intervals" in effects["note"]


def test_captions_that_name_nothing():
    chain = spans_chain(COCO)
    item = chair_item("1", "nothing", [], word_chain=chain, annotated_categories=COCO.categories)
    silent = category_effects({"base": [item], "aligned": [item]}, QUICK)
    assert silent["categories"] == [] and silent["intervals"] == 0
    cat = chair_item("1", "a cat", [], word_chain=chain, annotated_categories=COCO.categories)
    (row,) = category_effects({"base": [cat], "aligned": [item]}, QUICK)["categories"]
    assert row["base"]["chair_i"] == 1 and row["aligned"]["chair_i"] is None
    assert (row["aligned"]["mentions"], row["change"]["mentions_per_caption"]["value"]) == (0, -1)


# --- images ---------------------------------------------------------------------------------------------------------


def outcomes(count=5, seed=0, **changed):
    return win_lose_tie({**items(), **changed}, captions(), count, seed)


def test_won_lost_and_tied_by_hand():
    found = outcomes()
    kinds = {kind: [e["image_id"] for e in found[kind]] for kind in ("win", "lose", "tie")}
    # 1: three false mentions to one; 5: one to none; 2: one (kite) to one (tie); 3: none to two; 4 and 6: none.
    assert kinds["win"] == ["1", "5"]
    assert kinds["lose"] == ["3"]
    assert sorted(kinds["tie"]) == ["2", "4", "6"]
    assert found["counts"]["win"] == {
        "images": 2,
        "recall_higher": 0,
        "recall_equal": 1,
        "recall_lower": 0,
        "recall_undefined": 1,
    }
    assert found["counts"]["tie"]["recall_lower"] == 2
    first = found["win"][0]
    assert (first["false_change"], first["recall_change"], first["true_objects"]) == (-2, 0.0, ["dog"])
    assert first["base"]["answers"][0] == {
        "prompt": "Describe.",
        "response": "a dog, a cat and a kite",
        "hallucinated": ["cat", "kite"],
        "named": ["dog"],
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_examples_are_as_many_as_asked_for_and_the_counts_are_of_all():
    found = outcomes(count=1)
    assert [len(found[kind]) for kind in ("win", "lose", "tie")] == [1, 1, 1]
    assert found["counts"] == outcomes()["counts"]
    assert outcomes(count=0)["tie"] == []


def test_the_choice_of_ties_hangs_on_the_seed_alone():
    assert outcomes(count=2, seed=4) == outcomes(count=2, seed=4)
    assert len({tuple(e["image_id"] for e in outcomes(count=1, seed=seed)["tie"]) for seed in range(20)}) == 3


def test_a_caption_of_any_length_is_shown_in_part():
    long = captions()
    long["base"][0]["response"] = "a dog " * 20_000
    found = win_lose_tie(items(), long, 5, 0)
    (shown,) = (e for e in found["win"] if e["image_id"] == "1")
    assert len(shown["base"]["answers"][0]["response"]) == 2001


# --- the comparison has them ----------------------------------------------------------------------------------------

ANNOTATIONS = pd.DataFrame({"image_id": list(TRUTH), "objects": list(TRUTH.values())})


def test_the_comparison_holds_all_and_does_not_hang_on_the_order_of_rows():
    report = compare(predictions(), ANNOTATIONS, COCO, settings=QUICK)
    assert report["categories"]["sampled"] == category_effects(items(), QUICK)
    assert report["examples"]["sampled"]["counts"] == outcomes()["counts"]
    assert report["mcnemar"] == {}
    assert compare(predictions().sample(frac=1, random_state=2), ANNOTATIONS, COCO, settings=QUICK) == report


def test_an_unfinished_sentence_counts_or_does_not():
    rows = predictions().assign(finish_reason="stop")
    cut = rows["model"].eq("base") & rows["image_id"].eq("5")
    rows.loc[cut, ["response", "finish_reason"]] = ["Nothing here. A cat", "length"]
    kept = compare(rows, ANNOTATIONS, COCO, settings=QUICK)
    dropped = compare(rows, ANNOTATIONS, COCO, settings=QUICK, drop_unfinished_sentence=True)
    assert kept["base"]["sampled"]["chair_i"]["value"] == pytest.approx(6 / 17)
    assert dropped["base"]["sampled"]["chair_i"]["value"] == pytest.approx(4 / 15)
    assert kept["aligned"] == dropped["aligned"]
    for report in (kept, dropped):
        assert report["settings"]["unfinished_captions"]["sampled"] == {"base": 2, "aligned": 0}
    assert [r["settings"]["drop_unfinished_sentence"] for r in (kept, dropped)] == [False, True]


def test_hashes_tell_what_was_asked():
    def asked(rows):
        return compare(rows, ANNOTATIONS, COCO, settings=QUICK)["settings"]["asked"]["sampled"]

    first = asked(predictions())
    assert first["questions"] is None
    assert asked(predictions().sample(frac=1, random_state=3)) == first
    other_prompt = asked(predictions().assign(prompt="What?"))
    assert other_prompt["caption_prompts"] != first["caption_prompts"]
    assert other_prompt["caption_images"] == first["caption_images"]
    fewer = asked(predictions()[predictions()["image_id"] != "5"])
    assert fewer["caption_images"] != first["caption_images"]
