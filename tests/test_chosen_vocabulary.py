"""The vocabulary of a setting: what is wrong with it is told by the setting's name, what stands twice by its lines."""

import logging

import pytest

from fisao_pipeline.chosen_vocabulary import load_vocabulary, repeated_words
from fisao_pipeline.method.vocabulary import BUILT_IN, ObjectVocabulary

SETTING = "reward_annotation.vocabulary"


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_one_is_loaded_without_a_word(name, caplog):
    with caplog.at_level(logging.INFO):
        assert load_vocabulary(name, SETTING) == ObjectVocabulary.from_name(name)
    assert not caplog.records


@pytest.mark.parametrize(
    ("lines", "repeats"),
    [
        (["dog, puppy", "", "cat"], []),
        (["dog, puppy", "dog, hound"], []),
        (["dog, puppy", "dog"], [("dog", 2, 1)]),
        (["dog, Dog"], [("Dog", 1, 1)]),
        (["dog, puppy", "# dog", "", "dog, PUPPY"], [("PUPPY", 4, 1)]),
        (["wine  glass", "wine-glass"], [("wine-glass", 2, 1)]),
        (["cat", "! hot dog, cat toy", "! hot dog"], [("hot dog", 3, 2)]),
        (["\ufeffdog", "dog"], [("dog", 2, 1)]),
    ],
)
def test_which_words_stand_twice(lines, repeats):
    assert repeated_words(lines) == repeats


def test_a_file_is_described_and_its_repeats_are_counted_once(tmp_path, caplog):
    file = tmp_path / "words.txt"
    file.write_text("dog, puppy, dog\n\n\ncat\ncat\npuppy\n".replace("puppy\n", "cat\n"))
    with caplog.at_level(logging.INFO):
        vocabulary = load_vocabulary(str(file), SETTING)
    assert vocabulary.synonyms == {"dog": ("dog", "puppy"), "cat": ("cat",)}
    described, warned = caplog.records
    assert described.message == f"{SETTING}: {file} names 2 categories by 3 words; 2 blank lines were skipped."
    assert warned.levelno == logging.WARNING
    listed = "'dog' in line 1 and line 1, 'cat' in line 5 and line 4, 'cat' in line 6 and line 4"
    assert warned.message == f"{SETTING}: {file} holds words twice ({listed}): each counts once."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"dog\ncat, dog\n", "'dog' belongs both to category 'dog' and to category 'cat'"),
        (b"\n", "no category in it"),
        (b"caf\xe9\n", "is no UTF-8 text"),
    ],
)
def test_a_mistake_is_told_by_the_settings_name(tmp_path, content, message):
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{SETTING}: .*{message}"):
        load_vocabulary(str(file), SETTING)
