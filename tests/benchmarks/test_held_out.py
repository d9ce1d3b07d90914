"""Which held-out images and questions are asked, whatever the order of the files, and what is made of the answers."""

import logging

import numpy as np
import pandas as pd
import pytest

from fisao_pipeline.benchmarks.held_out import (
    chosen_prompts,
    compare_models,
    flat_metrics,
    held_out_prompts,
    pope_questions,
)
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams

PARAMS = BenchmarkEvaluationParams(
    held_out_images=20,
    max_new_tokens=10,
    temperature=1.0,
    samples_per_prompt=2,
    pope_images=4,
    vocabulary="coco",
    batch_size=8,
    bootstrap_resamples=100,
    confidence=0.95,
    seed=0,
)
OBJECTS = ["dog", "cat", "bus", "car", "kite", "bird", "chair", "clock"]


@pytest.fixture
def prompts() -> pd.DataFrame:
    """A hundred images in the order of their names, two prompts each."""
    ids = [f"i{number:03}" for number in range(100) for _ in range(2)]
    return pd.DataFrame(
        {"prompt_id": [f"p{n}" for n in range(200)], "image_id": ids, "prompt": "Describe.", "split": "held_out"}
    )


@pytest.fixture
def manifest() -> pd.DataFrame:
    """Every other image shows four objects, the rest one, and every tenth is not annotated."""
    objects = [[OBJECTS[(n + k) % len(OBJECTS)] for k in range(4 if n % 2 else 1)] for n in range(100)]
    ids = [f"i{number:03}" for number in range(100)]
    return pd.DataFrame({"image_id": ids, "objects": [None if n % 10 == 5 else o for n, o in enumerate(objects)]})


def test_only_the_held_out_split(prompts):
    mixed = prompts.assign(split=["held_out", "training"] * 100)
    assert set(held_out_prompts(mixed)["split"]) == {"held_out"}


def test_no_held_out_prompt_names_the_parameter(prompts):
    with pytest.raises(ValueError, match=r"image_ingestion\.split_fractions\.held_out"):
        held_out_prompts(prompts.assign(split="training"))


def test_the_images_come_from_all_over_the_file_with_all_their_prompts(prompts):
    chosen = chosen_prompts(prompts, PARAMS)
    assert chosen["image_id"].nunique() == 20 and len(chosen) == 40
    assert chosen["image_id"].max() > "i080" and chosen["image_id"].min() < "i020"


def test_neither_the_order_of_the_files_nor_an_added_image_changes_what_is_asked(prompts, manifest):
    chosen = chosen_prompts(prompts, PARAMS)
    turned = chosen_prompts(prompts[::-1], PARAMS)
    assert chosen["image_id"].unique().tolist() == turned["image_id"].unique().tolist()
    assert pope_questions(chosen, manifest, PARAMS) == pope_questions(turned, manifest[::-1], PARAMS)
    more = prompts.head(2).assign(image_id="another", prompt_id=["a0", "a1"])
    added = chosen_prompts(pd.concat([more, prompts]), PARAMS)
    assert len(set(chosen["image_id"]) - set(added["image_id"])) <= 1


def test_another_evaluation_seed_asks_about_other_images(prompts):
    other = PARAMS.model_copy(update={"seed": 1})
    assert set(chosen_prompts(prompts, other)["image_id"]) != set(chosen_prompts(prompts, PARAMS)["image_id"])


def test_yes_no_questions_are_about_the_first_chosen_images_with_three_objects(prompts, manifest):
    chosen = chosen_prompts(prompts, PARAMS)
    shown = dict(zip(manifest["image_id"], manifest["objects"], strict=True))
    eligible = [i for i in chosen["image_id"].unique() if shown[i] is not None and len(shown[i]) >= 3]
    questions = pope_questions(chosen, manifest, PARAMS)
    assert set(questions) == {"random", "popular", "adversarial"}
    for asked in questions.values():
        assert {q.image_id for q in asked} == set(eligible[:4]) and len(eligible) > 4
        assert len(asked) == 4 * 6


def test_no_image_with_three_objects_no_yes_no_question(prompts, manifest):
    chosen = chosen_prompts(prompts, PARAMS)
    assert pope_questions(chosen, manifest.assign(objects=None), PARAMS) == {}
    assert pope_questions(chosen, manifest, PARAMS.model_copy(update={"pope_images": 0})) == {}


def asked_about(objects: dict[str, list[str]], **changes) -> set[str]:
    chosen = pd.DataFrame({"image_id": list(objects)})
    manifest = pd.DataFrame({"image_id": list(objects), "objects": list(objects.values())})
    questions = pope_questions(chosen, manifest, PARAMS.model_copy(update=changes))
    images = [{question.image_id for question in asked} for asked in questions.values()]
    assert all(len(asked) == 6 * len(images[0]) for asked in questions.values())
    assert all(each == images[0] for each in images)
    return images[0] if images else set()


def test_images_without_three_objects_to_ask_in_vain_are_left_out(caplog):
    """All of them shown by c: a lacks three others, b lacks two."""
    objects = {"a": OBJECTS[:3], "b": OBJECTS[:4], "c": OBJECTS[3:6]}
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        assert asked_about(objects) == {"a", "c"}
    assert "1 of 3 images are not asked about" in caplog.text and "2 images are left" in caplog.text
    caplog.clear()
    assert asked_about({"a": OBJECTS[:3], "c": OBJECTS[3:6]}) == {"a", "c"}
    assert not caplog.text


def test_few_categories_leave_no_question_at_all(caplog):
    """Each image that is left out takes its objects with it."""
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        assert asked_about({"a": OBJECTS[:3], "b": OBJECTS[:4], "c": OBJECTS[1:5]}) == set()
    assert "3 of 3 images" in caplog.text and "No yes/no question is left" in caplog.text
    assert asked_about({"a": OBJECTS[:3], "b": OBJECTS[:6]}) == set(), "a's negatives are b's"
    assert asked_about({"a": OBJECTS[:3], "b": OBJECTS[3:6]}, pope_images=1) == set()


@pytest.mark.parametrize(("declared", "chair_i", "unscored"), [(["dog", "kite"], 0.5, 1), (["dog"], 0.0, 2)])
def test_a_declared_category_that_no_image_shows_is_scored(declared, chair_i, unscored):
    """A kite is nowhere: only the declaration says that naming it is wrong. The giraffe is not declared."""
    rows = [
        {"model": model, "decoding": "greedy", "task": "caption", "image_id": image_id, "prompt": "Describe."}
        for model in ("base", "aligned")
        for image_id in ("i0", "i1")
    ]
    texts = ["a dog, a kite and a giraffe", "nothing"] * 2
    predictions = pd.DataFrame(rows).assign(answer=None, response=texts)
    manifest = pd.DataFrame({"image_id": ["i0", "i1"], "objects": [["dog"], ["dog"]]})
    comparison = compare_models(predictions, manifest, declared, PARAMS)
    assert comparison["base"]["greedy"]["chair_i"]["value"] == chair_i
    assert comparison["settings"]["samples"]["greedy"]["unscored_mentions"]["base"] == unscored


# --- what is made of the answers ----------------------------------------------------------------------------------

SHOWN = {
    "t0": ["dog", "cat", "car", "bus"],
    "h0": ["dog", "cat", "car", "truck"],
    "h1": ["bus", "bird", "boat"],
    "h2": ["chair", "cup"],
    "h3": None,
    "h4": ["train", "sheep", "cow", "cow"],
}
DECLARED = sorted({name for names in SHOWN.values() for name in names or ()})


@pytest.fixture
def shown() -> pd.DataFrame:
    return pd.DataFrame({"image_id": list(SHOWN), "objects": list(SHOWN.values())})


def predictions(aligned_h0: str) -> pd.DataFrame:
    rows = [
        (model, decoding, "caption", image, "Describe it.", None, said, None, 5)
        for decoding in ("greedy", "sampled")
        for model, texts in (("base", ("A dog and a bus.", "A bird.")), ("aligned", (aligned_h0, "A bird.")))
        for image, said in zip(("h0", "h1"), texts, strict=True)
    ]
    columns = ["model", "decoding", "task", "image_id", "prompt", "answer", "response", "pope_strategy", "n_tokens"]
    return pd.DataFrame(rows, columns=columns)


def test_the_comparison_by_hand(shown):
    comparison = compare_models(predictions("A dog and a cat."), shown, DECLARED, PARAMS)
    base, aligned = (comparison[model]["greedy"] for model in ("base", "aligned"))
    assert base["chair_i"]["value"] == pytest.approx(1 / 3), "the bus of dog, bus, bird"
    assert aligned["chair_i"]["value"] == 0
    assert base["recall"]["value"] == pytest.approx(2 / 7)
    assert aligned["recall"]["value"] == pytest.approx(3 / 7)
    assert comparison["change"]["greedy"]["chair_i"]["value"] == pytest.approx(-1 / 3)
    assert comparison["settings"]["prompts"] == ["Describe it."]
    assert comparison["settings"]["images"] == 2
    assert comparison["settings"]["max_new_tokens"] == PARAMS.max_new_tokens
    assert comparison["settings"]["n_resamples"] == 100


def test_the_word_chain_of_the_parameters_is_the_one_that_is_used(shown):
    reference = PARAMS.model_copy(update={"word_chain": "reference"})
    comparison = compare_models(predictions("A dog and a cat."), shown, DECLARED, reference)
    assert comparison["settings"]["word_chain"] == "reference"
    assert comparison["base"]["greedy"]["chair_i"]["value"] == 0, "a bus is never found"


def test_categories_that_nobody_annotated_are_not_judged(shown):
    """A zebra is in the vocabulary but in no annotation, so nobody can know whether it is there."""
    comparison = compare_models(predictions("A dog, a cat and a zebra."), shown, DECLARED, PARAMS)
    assert comparison["aligned"]["greedy"]["chair_i"]["value"] == 0
    assert comparison["settings"]["samples"]["greedy"]["unscored_mentions"] == {"base": 0, "aligned": 1}


def test_flat_metrics_are_the_comparisons_values_without_the_undefined_ones(shown):
    comparison = compare_models(predictions("Nothing."), shown[shown["image_id"].isin(["h0"])], DECLARED, PARAMS)
    flat = flat_metrics(comparison)
    assert comparison["aligned"]["greedy"]["chair_i"]["value"] is None
    assert "aligned.greedy.chair_i" not in flat and "change.greedy.chair_i" not in flat
    assert flat["base.greedy.recall"] == comparison["base"]["greedy"]["recall"]["value"]
    assert flat["aligned.sampled.recall"] == 0
    assert all(np.isfinite(value) for value in flat.values())


def test_captions_with_a_token_under_one_in_a_thousand_are_counted(shown):
    rows = predictions("A dog and a No.")
    logprobs = {"A dog and a No.": -9.0, "A dog and a bus.": -6.9, "A bird.": -0.1}
    rows["lowest_base_logprob"] = rows["response"].map(logprobs)
    comparison = compare_models(rows, shown, DECLARED, PARAMS)
    assert comparison["base"]["greedy"]["unlikely_captions"]["value"] == 0
    assert comparison["aligned"]["greedy"]["unlikely_captions"]["value"] == 0.5
    assert "unlikely_captions" not in compare_models(predictions("A dog."), shown, DECLARED, PARAMS)["base"]["greedy"]
