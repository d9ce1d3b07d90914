"""Captions that were cut off, with their unfinished sentence and without."""

import pytest

from fisao_pipeline.benchmarks.unfinished import finished_part, is_unfinished


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("A dog. A cat and a", "A dog."),
        ("A dog. A cat.", "A dog. A cat."),
        ("A dog! Is it? Yes… and", "A dog! Is it? Yes…"),
        ('He says "stop." Then a', 'He says "stop."'),
        ("A boat of 5.5 metres and", ""),
        ("A dog in the 3.", "A dog in the 3."),
        ("A dog.\nA cat\n", "A dog."),
        ("a dog and a", ""),
        ("", ""),
        ("A dog.  \n", "A dog.  \n"),
    ],
)
def test_what_is_left_of_a_caption_that_was_cut_off(text, part):
    assert finished_part(text, "length") == part
    assert finished_part(text) == part
    assert is_unfinished(text) == (text != part)


def test_a_caption_that_the_model_ended_stays_whole():
    assert finished_part("A dog. A cat and a", "stop") == "A dog. A cat and a"
    assert not is_unfinished("a dog and a", "stop")
