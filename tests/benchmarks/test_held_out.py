"""Which questions the held-out evaluation asks, and what it makes of the answers."""

import numpy as np
import pandas as pd
import pytest

from fisao_pipeline.benchmarks.held_out import compare_models, flat_metrics, pope_questions
from fisao_pipeline.benchmarks.pope import STRATEGIES
from fisao_pipeline.params import BenchmarkEvaluationParams

BASE = {
    "held_out_images": 10,
    "max_new_tokens": 16,
    "temperature": 1.0,
    "samples_per_prompt": 2,
    "pope_images": 10,
    "vocabulary": "coco",
    "batch_size": 8,
    "bootstrap_resamples": 100,
    "confidence": 0.95,
    "seed": 0,
}
OBJECTS = {
    "t0": ["dog", "cat", "car", "bus"],
    "h0": ["dog", "cat", "car", "truck"],
    "h1": ["bus", "bird", "boat"],
    "h2": ["chair", "cup"],
    "h3": None,
    "h4": ["train", "sheep", "cow", "cow"],
}


def params(**changes) -> BenchmarkEvaluationParams:
    return BenchmarkEvaluationParams(**{**BASE, **changes})


@pytest.fixture
def manifest() -> pd.DataFrame:
    return pd.DataFrame({"image_id": list(OBJECTS), "objects": list(OBJECTS.values())})


@pytest.fixture
def prompts() -> pd.DataFrame:
    splits = ["training" if image.startswith("t") else "held_out" for image in OBJECTS]
    return pd.DataFrame({"image_id": list(OBJECTS), "split": splits, "prompt": "Describe it."})


# --- questions -----------------------------------------------------------------------------------------------------


def test_questions_are_about_held_out_images_with_three_objects(prompts, manifest):
    questions = pope_questions(prompts, manifest, params())
    assert set(questions) == set(STRATEGIES)
    for strategy, asked in questions.items():
        assert {question.image_id for question in asked} == {"h0", "h1", "h4"}, strategy
        for question in asked:
            assert (question.object in OBJECTS[question.image_id]) == (question.answer == "yes")


def test_images_are_those_that_are_captioned(prompts, manifest):
    """The first two held-out images, as the captions take them; the third with three objects is not among them."""
    asked = pope_questions(prompts, manifest, params(held_out_images=2))["random"]
    assert {question.image_id for question in asked} == {"h0", "h1"}


def test_no_more_images_than_wanted(prompts, manifest):
    asked = pope_questions(prompts, manifest, params(pope_images=2))["popular"]
    assert len({question.image_id for question in asked}) == 2


def test_an_object_annotated_twice_counts_once(prompts, manifest):
    manifest.loc[manifest["image_id"] == "h4", "objects"] = pd.Series([["cat", "cat", "boat"]], index=[5])
    asked = pope_questions(prompts, manifest, params())["random"]
    assert {question.image_id for question in asked} == {"h0", "h1"}


@pytest.mark.parametrize("change", [{"pope_images": 0}, {"held_out_images": 10}])
def test_no_questions_where_there_is_nothing_to_ask(prompts, manifest, change):
    few = manifest if change == {"pope_images": 0} else manifest.assign(objects=[["dog", "cat"]] * len(manifest))
    assert pope_questions(prompts, few, params(**change)) == {}
    assert pope_questions(prompts, manifest.assign(objects=None), params()) == {}


def test_another_seed_asks_something_else(prompts, manifest):
    first, again, other = (pope_questions(prompts, manifest, params(seed=seed))["random"] for seed in (0, 0, 1))
    assert first == again
    assert first != other


# --- answers -------------------------------------------------------------------------------------------------------


def predictions(aligned_h0: str) -> pd.DataFrame:
    rows = [
        (model, decoding, "caption", image, "Describe it.", None, said, None, 5)
        for decoding in ("greedy", "sampled")
        for model, texts in (("base", ("A dog and a bus.", "A bird.")), ("aligned", (aligned_h0, "A bird.")))
        for image, said in zip(("h0", "h1"), texts, strict=True)
    ]
    columns = ["model", "decoding", "task", "image_id", "prompt", "answer", "response", "pope_strategy", "n_tokens"]
    return pd.DataFrame(rows, columns=columns)


def test_the_comparison_by_hand(manifest):
    comparison = compare_models(predictions("A dog and a cat."), manifest, params())
    base, aligned = (comparison[model]["greedy"] for model in ("base", "aligned"))
    assert base["chair_i"]["value"] == pytest.approx(1 / 3), "the bus of dog, bus, bird"
    assert aligned["chair_i"]["value"] == 0
    assert base["recall"]["value"] == pytest.approx(2 / 7)
    assert aligned["recall"]["value"] == pytest.approx(3 / 7)
    assert comparison["change"]["greedy"]["chair_i"]["value"] == pytest.approx(-1 / 3)
    assert comparison["settings"]["prompts"] == ["Describe it."]
    assert comparison["settings"]["images"] == 2
    assert comparison["settings"]["max_new_tokens"] == 16
    assert comparison["settings"]["n_resamples"] == 100


def test_categories_that_nobody_annotated_are_not_judged(manifest):
    """A zebra is in the vocabulary but in no annotation, so nobody can know whether it is there."""
    comparison = compare_models(predictions("A dog, a cat and a zebra."), manifest, params())
    assert comparison["aligned"]["greedy"]["chair_i"]["value"] == 0
    assert comparison["settings"]["samples"]["greedy"]["unscored_mentions"] == {"base": 0, "aligned": 1}


def test_flat_metrics_are_the_comparisons_values_without_the_undefined_ones(manifest):
    comparison = compare_models(predictions("Nothing."), manifest[manifest["image_id"].isin(["h0"])], params())
    flat = flat_metrics(comparison)
    assert comparison["aligned"]["greedy"]["chair_i"]["value"] is None
    assert "aligned.greedy.chair_i" not in flat and "change.greedy.chair_i" not in flat
    assert flat["base.greedy.recall"] == comparison["base"]["greedy"]["recall"]["value"]
    assert flat["aligned.sampled.recall"] == 0
    assert all(np.isfinite(value) for value in flat.values())
