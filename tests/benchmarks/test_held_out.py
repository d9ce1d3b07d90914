"""Which held-out images and questions are asked: the same ones whatever the order of the files."""

import pandas as pd
import pytest

from fisao_pipeline.benchmarks.held_out import chosen_prompts, compare_models, held_out_prompts, pope_questions
from fisao_pipeline.params import BenchmarkEvaluationParams

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
