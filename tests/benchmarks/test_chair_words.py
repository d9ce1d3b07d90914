"""The reference's word chain: its odd habits one by one, and its words on real captions."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisao_pipeline.benchmarks.chair import chair_item, chair_metrics
from fisao_pipeline.benchmarks.chair_words import choose_word_chain, reference_chain
from fisao_pipeline.benchmarks.word_tokens import treebank_tokens
from fisao_pipeline.method.object_spans import ObjectVocabulary

COCO = ObjectVocabulary.from_name("coco")
DATA = Path(__file__).parents[3] / "shared" / "data" / "chair"


@pytest.fixture(scope="module")
def chain():
    return reference_chain(COCO)


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("Two dogs and a CAT.", ["dog", "cat"]),
        ("A dog. A cat", ["dog", "cat"]),
        ("A dog.A cat", ["cat"]),
        ("", []),
        ("Un chien et un chat", []),
        ("一只狗", []),
    ],
)
def test_plain_words(chain, caption, found):
    assert chain(caption) == found


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a bus", []),
        ("two buses", ["bus"]),
        ("two ties", []),
        ("a tie", ["tie"]),
        ("a tennis racket", ["tennis racket"]),
        ("a wine glass", ["wine glass"]),
        ("two wine glasses", ["wine glass"]),
        ("a pair of scissors", ["scissors"]),
    ],
)
def test_bus_and_ties_are_lost_to_the_singularizer_and_their_other_number_is_not(chain, caption, found):
    """bus → bu, ties → ty, tennis → tenni, glass → glas; "racket" and "wine glas" are on the lists."""
    assert chain(caption) == found


def test_two_words_become_one_name_from_the_left(chain):
    assert chain("a baby elephant, an adult bird and a passenger train") == ["elephant", "bird", "train"]
    assert chain("a baby, an adult and a passenger") == ["person"] * 3
    assert chain("a hot dog and a train track") == ["hot dog"]
    assert chain("a bow tie") == ["tie"]
    assert chain("baby hot dog") == ["person", "hot dog"]


def test_a_name_of_three_words_is_never_found(chain):
    assert chain("a stove top oven") == ["oven", "oven"]


def test_seat_is_no_chair_beside_a_toilet_wherever_it_stands(chain):
    assert chain("a seat") == ["chair"]
    assert chain("A toilet. There are passengers on every seat.") == ["toilet", "person"]
    assert chain("a toilet seat and a seat") == ["toilet"]


def test_orange_is_the_fruit(chain):
    assert chain("an orange cat") == ["orange", "cat"]


def test_words_with_two_blanks_before_them_in_the_reference_list_are_never_found(chain):
    assert chain("a motor bike, a motorbike and a cheesecake") == ["motorcycle"]


def test_the_chains_differ_where_they_are_said_to():
    spans, reference = (choose_word_chain(name, COCO) for name in ("spans", "reference"))
    assert (spans("a bus and a motor bike"), reference("a bus and a motor bike")) == (["bus", "motorcycle"], [])
    with pytest.raises(ValueError, match="word_chain must be one of spans, reference, not 'wordnet'"):
        choose_word_chain("wordnet", COCO)


def nltk_tokens(text: str) -> list[str]:
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return [
        token
        for sentence in PunktSentenceTokenizer().tokenize(text)
        for token in NLTKWordTokenizer().tokenize(sentence)
    ]


WORDS = st.sampled_from(
    ["a", "dog", "cannot", "tv", "well-lit", "x-ray", "etc", "u", "can't", "gonna", "2", "12", "3d", "d", "no"]
)
SIGNS = st.sampled_from(
    [" ", " ", " ", ", ", ". ", "! ", "?\n", "\n\n", ".", ",", "...", ' "', '." ', " (", ") ", "--"]
)


PLAIN_SIGNS = st.sampled_from([" ", ", ", ". ", "! ", "\n\n"])


@settings(deadline=None)
@given(
    st.lists(st.tuples(WORDS, SIGNS), max_size=12) | st.lists(st.tuples(WORDS, PLAIN_SIGNS), max_size=6), st.booleans()
)
def test_the_fast_way_gives_the_tokens_of_nltk(parts, cut):
    text = "".join(word + sign for word, sign in parts)
    assert treebank_tokens(text.strip() if cut else text) == nltk_tokens(text.strip() if cut else text)


def test_a_number_or_a_letter_before_a_full_stop_goes_on_with_the_sentence_as_in_nltk():
    assert treebank_tokens("2. a dog. vitamin c. here") == nltk_tokens("2. a dog. vitamin c. here")
    assert treebank_tokens("2. a dog.")[0] == "2."


@pytest.mark.parametrize(
    "text", ["dog " * 25_000, "dog, " * 20_000 + "1", "'" * 100_000, "a-" * 50_000, "狗" * 100_000]
)
def test_a_hundred_thousand_characters_take_no_long_time(chain, text):
    started = time.process_time()
    chain(text)
    assert time.process_time() - started < 5


@pytest.fixture(scope="module")
def reference() -> list[dict]:
    if not DATA.is_dir():
        pytest.skip("the reference captions and CHAIR's answers to them are not part of the project")
    rows = [json.loads(line) for line in (DATA / "llava15_7b_greedy_500.jsonl").read_text().splitlines()]
    answers = [json.loads(line) for line in (DATA / "llava15_7b_greedy_500_expected.jsonl").read_text().splitlines()]
    assert [row["image_id"] for row in rows] == [row["image_id"] for row in answers]
    return [row | answer for row, answer in zip(rows, answers, strict=True)]


def test_real_captions_give_the_words_of_the_reference_one_by_one(chain, reference):
    assert len(reference) == 500
    assert [row["image_id"] for row in reference if chain(row["caption"]) != row["mentions"]] == []


def test_real_captions_give_the_figures_of_the_reference_exactly(chain, reference):
    truths = json.loads((DATA / "coco_val2014_objects_500.json").read_text())
    items = [
        chair_item(
            str(row["image_id"]),
            row["caption"],
            truths[str(row["image_id"])],
            word_chain=chain,
            annotated_categories=COCO.categories,
        )
        for row in reference
    ]
    assert [list(item.hallucinated) for item in items] == [row["hallucinated"] for row in reference]
    metrics = chair_metrics(items)
    assert metrics["chair_s"] == 0.450
    assert round(metrics["chair_i"], 5) == 0.12784
    assert round(metrics["recall"], 4) == 0.7979
