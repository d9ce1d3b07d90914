"""Label-free contrast: what the samples agree on, and what none of them says."""

import pandas as pd
import pytest

from fisao_pipeline.method.calibration import CalibrationError
from fisao_pipeline.params.reward_annotation import ContrastParams
from fisao_pipeline.training.contrast import absent_words, agreed_mentions

PARAMS = ContrastParams(agreement=0.75, absent_words=2, seed=0)


def tables(samples):
    """Responses and mentions from (prompt, image, categories) per sample."""
    responses = pd.DataFrame(
        [(f"r{n}", prompt, image) for n, (prompt, image, _) in enumerate(samples)],
        columns=["response_id", "prompt_id", "image_id"],
    )
    rows = [
        (f"r{n}", image, category, f"{category}s", "" if place else "two", 0.1 * n + 0.01 * place)
        for n, (_, image, categories) in enumerate(samples)
        for place, category in enumerate(categories)
    ]
    columns = ["response_id", "image_id", "category", "text", "modifiers", "score"]
    return responses, pd.DataFrame(rows, columns=columns)


FOUR = [
    ("p", "i", ["dog", "cat"]),
    ("p", "i", ["cat", "dog", "dog"]),
    ("p", "i", ["bus", "bus", "bus", "dog"]),
    ("p", "i", ["cat"]),
    ("q", "j", ["bus"]),
    ("q", "j", ["bus", "cup"]),
]


def agreed(samples, agreement):
    found = agreed_mentions(*tables(samples), agreement)
    return list(zip(found["response_id"], found["category"], strict=True))


@pytest.mark.parametrize(
    ("agreement", "expected"),
    [
        # Three of four say dog and cat, each once; three buses of one sample are one vote.
        (0.75, [("r0", "dog"), ("r0", "cat"), ("r4", "bus")]),
        (0.76, [("r4", "bus")]),
        (1.0, [("r4", "bus")]),
        (0.51, [("r0", "dog"), ("r0", "cat"), ("r4", "bus")]),
    ],
)
def test_agreed_are_the_first_mentions_that_most_samples_name(agreement, expected):
    assert agreed(FOUR, agreement) == expected


def test_a_share_of_samples_is_exact():
    # 0.6 · 5 is 3.0000000000000004 or 2.9999…: three of five are enough.
    samples = [("p", "i", ["dog"])] * 3 + [("p", "i", ["cat"])] * 2
    assert agreed(samples, 0.6) == [("r0", "dog")]


def test_samples_of_another_prompt_are_no_votes():
    samples = [("p", "i", ["dog"]), ("p", "i", []), ("q", "i", ["dog"]), ("q", "i", [])]
    assert agreed(samples, 0.75) == []


def test_a_prompt_with_one_sample_agrees_with_nothing():
    assert agreed([("p", "i", ["dog"]), ("q", "j", ["cat"]), ("q", "j", ["cat"])], 0.75) == [("r1", "cat")]


def test_one_sample_per_prompt_is_refused_by_the_settings_name():
    with pytest.raises(CalibrationError, match=r"reward_annotation.*response_sampling\.responses_per_prompt to 2"):
        agreed([("p", "i", ["dog"]), ("q", "i", ["dog"])], 0.75)


def absent(samples, **changes):
    found = absent_words(*tables(samples), PARAMS.model_copy(update=changes))
    return [tuple(row) for row in found.itertuples(index=False)]


def test_absent_are_words_of_other_images_that_no_sample_of_this_one_names():
    rows = absent(FOUR, absent_words=9)
    assert [(image, word) for image, word, *_ in sorted(rows)] == [("i", "cup"), ("j", "cat"), ("j", "dog")]
    assert all(text == word for _, word, text, _ in rows)


def test_all_samples_of_an_image_count_whatever_their_prompt():
    samples = [("p", "i", ["dog"]), ("p", "i", []), ("q", "i", ["cat"]), ("r", "j", ["bus"])]
    assert [word for image, word, *_ in absent(samples, absent_words=9) if image == "i"] == ["bus"]


def test_an_image_without_mentions_has_absent_words_too():
    rows = absent([("p", "i", []), ("q", "j", ["dog"])])
    assert rows == [("i", "dog", "dog", "")]


def test_absent_words_wear_the_images_own_modifiers():
    worn = {modifiers for image, _, _, modifiers in absent(FOUR, absent_words=9) if image == "j"}
    assert worn <= {"two", ""}
    only_two = [("p", "i", ["dog"]), ("q", "j", ["cat"])]
    assert [modifiers for *_, modifiers in absent(only_two)] == ["two", "two"]


def test_their_number_is_bounded_and_the_seed_decides():
    words = [f"w{n}" for n in range(12)]
    samples = [("p", "i", ["dog"]), *[("q", f"j{n}", [word]) for n, word in enumerate(words)]]
    chosen = [{w for image, w, *_ in absent(samples, absent_words=3, seed=seed) if image == "i"} for seed in range(4)]
    assert [len(words) for words in chosen] == [3, 3, 3, 3]
    assert len({frozenset(words) for words in chosen}) > 1
    again = {w for image, w, *_ in absent(samples[::-1], absent_words=3, seed=0) if image == "i"}
    assert again == chosen[0], "not the order of the rows"
    more = {w for image, w, *_ in absent(samples, absent_words=4, seed=0) if image == "i"}
    assert chosen[0] < more


def test_nothing_named_nothing_absent():
    rows = absent_words(*tables([("p", "i", [])]), PARAMS)
    assert rows.empty
    assert list(rows) == ["image_id", "category", "text", "modifiers"]
