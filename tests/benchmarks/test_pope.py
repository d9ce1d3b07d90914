from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisao_pipeline.benchmarks.pope import STRATEGIES, build_questions, parse_answer, pope_counts, pope_metrics

sys.path.insert(0, str(Path(__file__).parents[1] / "references"))
from slow_benchmarks import slow_confusion

# Images with three objects hold: dog 4, cat 3, car 2, kite 2, and one each of orange, bus, tree, lamp, vase.
WORLD = {
    "a": ["dog", "cat", "car"],
    "b": ["dog", "cat", "car", "kite"],
    "c": ["dog", "kite", "orange"],
    "d": ["dog", "cat", "bus"],
    "e": ["fork"],
    "f": ["spoon", "spoon", "bus", "bus"],
    "g": ["tree", "lamp", "vase"],
}
RARE = {"orange", "bus", "tree", "lamp", "vase"}


def by_image(questions) -> dict[str, list[tuple[str, str]]]:
    images: dict[str, list[tuple[str, str]]] = {}
    for question in questions:
        images.setdefault(question.image_id, []).append((question.object, question.answer))
    return images


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_positives_are_the_first_objects_and_a_negative_follows_each(strategy):
    images = by_image(build_questions(WORLD, strategy, n_images=5))
    assert set(images) == {"a", "b", "c", "d", "g"}  # "e" has one object, "f" two different ones
    for image_id, questions in images.items():
        assert [answer for _, answer in questions] == ["yes", "no"] * 3
        assert [name for name, answer in questions if answer == "yes"] == WORLD[image_id][:3]
        negatives = [name for name, answer in questions if answer == "no"]
        assert len(set(negatives)) == 3
        assert not set(negatives) & set(WORLD[image_id])
        assert not {"fork", "spoon"} & set(negatives)  # of images that were not sampled


def test_popular_takes_the_most_frequent_absent_objects():
    images = by_image(build_questions(WORLD, "popular", n_images=5))
    negatives = {image: [name for name, answer in asked if answer == "no"] for image, asked in images.items()}
    assert negatives["a"][0] == "kite"
    assert set(negatives["a"][1:]) < RARE
    assert negatives["c"][:2] == ["cat", "car"]
    assert negatives["g"][:2] == ["dog", "cat"]
    assert negatives["g"][2] in {"car", "kite"}


def test_adversarial_takes_the_most_frequent_neighbour_of_the_positive():
    world = {
        "x": ["dog", "cat", "car"],
        "y": ["dog", "leash", "ball"],
        "z": ["dog", "leash", "bowl"],
        "w": ["cat", "sofa", "bowl"],
        "v": ["cat", "sofa", "ball"],
        "u": ["car", "road", "sign"],
    }
    # dog sits with leash twice, cat with sofa twice, car with road and sign once each.
    negatives = [
        name for name, answer in by_image(build_questions(world, "adversarial", n_images=6))["x"] if answer == "no"
    ]
    assert negatives[:2] == ["leash", "sofa"]
    assert negatives[2] in {"road", "sign"}


def test_adversarial_falls_back_to_any_object():
    world = {"x": ["dog"], "y": ["cat"]}
    questions = build_questions(world, "adversarial", n_images=2, n_positives=1)
    assert by_image(questions) == {"x": [("dog", "yes"), ("cat", "no")], "y": [("cat", "yes"), ("dog", "no")]}


def test_random_draws_uniformly():
    world = {"x": ["dog"], "y": ["cat", "bus", "car", "kite"]}
    drawn = Counter(
        by_image(build_questions(world, "random", n_images=2, n_positives=1, seed=seed))["x"][1][0]
        for seed in range(400)
    )
    assert set(drawn) == {"cat", "bus", "car", "kite"}
    assert all(60 <= count <= 140 for count in drawn.values())  # 100 each, standard deviation 9


def test_seed_and_images_shared_by_strategies():
    world = {str(i): ["dog", "cat", f"thing {i % 7}", "bus"] for i in range(40)}
    for strategy in STRATEGIES:
        assert build_questions(world, strategy, n_images=9, seed=3) == build_questions(
            world, strategy, n_images=9, seed=3
        )
    sampled = [list(by_image(build_questions(world, strategy, n_images=9, seed=3))) for strategy in STRATEGIES]
    assert sampled[0] == sampled[1] == sampled[2]
    assert sampled[0] != list(by_image(build_questions(world, "random", n_images=9, seed=4)))


def test_prompt():
    prompts = {q.object: q.prompt for q in build_questions(WORLD, "random", n_images=5)}
    assert prompts["dog"] == "Is there a dog in the image?"
    assert prompts["orange"] == "Is there an orange in the image?"
    question = build_questions(WORLD, "random", n_images=5, template="{object}? ({article})")[0]
    assert question.prompt == f"{question.object}? (a)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_images": 6}, "wants 6 images with at least 3 objects, but only 5 of 7"),
        ({"n_images": 0}, "at least 1"),
        ({"strategy": "hard"}, "random, popular, adversarial"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_questions(WORLD, **{"strategy": "random", "n_images": 5, **arguments})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_negative_left(strategy):
    with pytest.raises(ValueError, match="image x: no object is left"):
        build_questions({"x": ["dog", "cat", "bus"]}, strategy, n_images=1)


@pytest.mark.parametrize(
    ("response", "reference", "strict"),
    [
        ("Yes", True, True),
        ("No", False, False),
        ("no, there is none", False, False),
        ("No.", False, False),
        ("Yes. There is no cat", True, True),
        ("yes, but not a big one", False, True),
        ("There is not.", False, None),
        # The habits of the reference.
        ("", True, None),
        ("NO", True, False),
        ("Nope", True, None),
        ("It isn't", True, None),
        ("No\nthere is none", True, False),
        ("\u201cNo\u201d", True, False),
        ("I cannot tell", True, None),
        ("Not at all", True, None),
        ("Yes-ish", True, None),
        ("Yesterday", True, None),
    ],
)
def test_parse_answer(response, reference, strict):
    assert parse_answer(response) is reference
    assert parse_answer(response, "strict") is strict


def test_parse_answer_unknown():
    with pytest.raises(ValueError, match="'reference' or 'strict'"):
        parse_answer("Yes", "lenient")


def test_metrics_hand_computed():
    answers = ["yes", "yes", "yes", "no", "no", "no"]
    responses = ["Yes", "No", "Maybe", "Yes", "No", "No"]
    # reference: "Maybe" is yes: TP 2, FN 1, FP 1, TN 2
    assert pope_metrics(pope_counts(list("aabbcc"), answers, responses)) == pytest.approx(
        {
            "accuracy": 4 / 6,
            "precision": 2 / 3,
            "recall": 2 / 3,
            "f1": 2 / 3,
            "yes_ratio": 3 / 6,
            "unparsed": 0.0,
            "n": 6,
        }
    )
    # strict: "Maybe" is neither and wrong
    assert pope_metrics(pope_counts(list("aabbcc"), answers, responses, "strict")) == pytest.approx(
        {
            "accuracy": 3 / 6,
            "precision": 1 / 2,
            "recall": 1 / 3,
            "f1": 2 / 5,
            "yes_ratio": 2 / 6,
            "unparsed": 1 / 6,
            "n": 6,
        }
    )


def test_metrics_undefined():
    metrics = pope_metrics(pope_counts(["a"], ["no"], ["No"]))
    assert metrics["accuracy"] == 1.0
    assert (metrics["precision"], metrics["recall"], metrics["f1"]) == (None, None, None)
    assert pope_metrics(pope_counts([], [], []))["accuracy"] is None


def test_wrong_truth():
    with pytest.raises(ValueError, match="image a: the true answer of a POPE question is yes or no, not 'maybe'"):
        pope_counts(["a"], ["maybe"], ["No"])


@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.booleans()), max_size=20))
def test_agrees_with_the_confusion_matrix(pairs):
    pairs = [*pairs, ("yes", True), ("no", False)]
    answers, said = zip(*pairs, strict=True)
    counts = pope_counts(["1"] * len(pairs), answers, ["Yes" if yes else "No" for yes in said])
    for name, value in slow_confusion(answers, said).items():
        assert pope_metrics(counts)[name] == pytest.approx(float(value), rel=1e-12)
