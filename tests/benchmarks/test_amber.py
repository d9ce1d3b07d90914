"""AMBER: its odd habits one by one, on hand-made cases and on rows of its own files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisao_pipeline.benchmarks.amber import (
    AmberWords,
    amber_item,
    amber_score,
    discriminative_counts,
    printed_figures,
    read_annotations,
    score_amber,
)
from fisao_pipeline.benchmarks.amber_words import choose_nouns, choose_similarity

DATA = Path(__file__).parents[3] / "shared" / "data" / "amber"
RELATION = {
    "dog": ["puppy"],
    "grass": ["lawn"],
    "sky": [],
    "cloud": ["fog"],
    "tree": ["bush"],
    "person": ["man", "puppy"],
    "orange": [],
}
WORDS = AmberWords(RELATION, frozenset({"orange"}))
EXACT = choose_similarity("exact")


def item(nouns: str, truth: str = "dog grass", hallu: str = "cloud tree", similar=EXACT):
    return amber_item(nouns.split(), truth.split(), hallu.split(), WORDS, similar)


def test_truth_and_what_means_it_is_covered_and_anything_else_flagged():
    found = item("puppy lawn sky")
    assert found.covered == (True, True)
    assert found.flagged == ("sky",)
    assert found.marked == (False, False)


def test_nouns_that_no_relation_holds_are_not_looked_at():
    assert item("unicorn dog").nouns == ("dog",)


def test_nouns_are_not_lower_cased():
    assert item("Dog").nouns == ()


def test_a_safe_word_is_not_flagged_and_stays_in_the_denominator():
    found = item("orange sky")
    assert (found.nouns, found.flagged) == (("orange", "sky"), ("sky",))


def test_a_habitual_hallucination_is_marked_and_flagged():
    found = item("fog cloud cloud")
    assert (found.marked, found.flagged) == ((True, False), ("fog", "cloud", "cloud"))


def test_a_word_listed_twice_is_covered_at_its_first_place_only():
    assert item("dog dog", truth="dog dog").covered == (True, False)


def test_a_related_word_covers_the_first_word_it_means():
    assert item("puppy", truth="person dog").covered == (True, False)


def similar_pairs(*pairs):
    return lambda one, other: one == other or (one, other) in pairs


def test_a_word_similar_to_the_truth_is_rescued_even_if_it_was_marked():
    found = item("cloud", similar=similar_pairs(("cloud", "lawn")))
    assert (found.flagged, found.covered, found.marked) == ((), (False, True), (True, False))


def test_one_noun_marks_two_hallucinations_by_the_word_and_by_similarity():
    # "tree" is marked as itself; looked for by similarity from the front, it also fits "fog", which means cloud.
    assert item("tree", similar=similar_pairs(("tree", "fog"))).marked == (True, True)


def test_an_annotated_word_without_relation_is_refused():
    with pytest.raises(ValueError, match="'lake' is annotated but has no entry in the relations"):
        item("dog", truth="lake")


def annotations():
    return {
        "1": {"id": 1, "type": "generative", "truth": ["dog", "grass"], "hallu": ["cloud"]},
        "2": {"id": 2, "type": "generative", "truth": ["sky"], "hallu": ["tree"]},
        "3": {"id": 3, "type": "discriminative-hallucination", "truth": "no"},
        "4": {"id": 4, "type": "discriminative-attribute-state", "truth": "yes"},
        "5": {"id": 5, "type": "relation", "truth": "no"},
    }


def predictions(texts: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame({"line": range(1, len(texts) + 1), "item_id": list(texts), "response": list(texts.values())})


def test_figures_hand_computed():
    texts = {"1": "dog cloud orange", "2": "sky", "3": "No", "4": "Yes", "5": "Yes"}
    scores = score_amber(predictions(texts), annotations(), WORDS, find_nouns=str.split, similar=EXACT)
    values = {name: interval.value for name, interval in scores.metrics.items()}
    assert values == pytest.approx(
        {
            "chair": 1 / 4,
            "cover": 2 / 3,
            "hal": 1 / 2,
            "cog": 1 / 2,
            "accuracy": 2 / 3,
            "precision": 1.0,
            "recall": 1 / 2,
            "f1": 2 / 3,
            "amber_score": (1 - 1 / 4 + 2 / 3) / 2,
        }
    )
    assert list(scores.breakdowns["as_printed_by_the_reference"]["dimension"]) == [
        "all",
        "attribute",
        "existence",
        "relation",
    ]


@settings(deadline=None)
@given(st.permutations(["1", "2", "3", "4", "5"]))
def test_the_order_of_rows_does_not_matter(order):
    texts = {"1": "dog cloud orange", "2": "sky", "3": "No", "4": "Yes", "5": "Yes"}
    shuffled = predictions({item_id: texts[item_id] for item_id in order})
    values = [
        {name: interval.value for name, interval in scores.metrics.items()}
        for scores in (
            score_amber(rows, annotations(), WORDS, find_nouns=str.split, similar=EXACT)
            for rows in (predictions(texts), shuffled)
        )
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("answer", ["yes", "No.", "no", " No", "No, there is not", ""])
def test_an_answer_that_is_not_yes_or_no_to_the_letter_is_wrong(answer):
    counts = discriminative_counts(["1", "2"], ["yes", "no"], [answer, answer])
    assert counts["correct"].sum() == 0
    assert counts["said_no"].sum() == 0


def test_no_is_the_positive_class():
    counts = discriminative_counts(list("1234"), ["no", "no", "yes", "yes"], ["No", "Yes", "No", "Yes"])
    assert counts[["true_no", "said_no", "answer_no"]].sum().tolist() == [1, 2, 2]


def test_the_reference_rounds_before_it_computes_f1_and_adds_to_the_denominator():
    counts = discriminative_counts(list("123456"), ["no"] * 3 + ["yes"] * 3, ["No", "No", "Yes", "No", "Yes", "Yes"])
    # Precision and recall 2/3, printed 66.7: F1 = 2·0.667² / (1.334 + 0.0001) = 0.66695.
    assert printed_figures(counts) == {"accuracy": 66.7, "precision": 66.7, "recall": 66.7, "f1": 66.7}
    assert printed_figures(counts, epsilon=1e-3)["f1"] == 66.7
    few = discriminative_counts(list("12"), ["no", "no"], ["No", "Yes"])
    assert printed_figures(few, epsilon=1e-2)["f1"] == 66.2  # exact: 66.7


def test_amber_score():
    assert amber_score(0.078, 0.748) == pytest.approx(0.835)
    assert amber_score(None, 0.5) is None


@pytest.mark.parametrize(
    ("rows", "relation", "message"),
    [
        ([{"id": 1, "type": "generative", "truth": "dog", "hallu": []}], {}, "row 1 is no annotation"),
        ([{"id": 1, "type": "relation", "truth": "maybe"}], {}, "row 1 is no annotation"),
        ([{"id": 1, "type": "relation", "truth": "no"}] * 2, {}, "row 2 .* or its id stands twice"),
        ([], ["dog"], "amber.relation: it needs an object"),
        ([], {"dog": "puppy"}, "amber.relation: it needs an object"),
    ],
)
def test_files_that_are_not_ambers(rows, relation, message):
    with pytest.raises(ValueError, match=message):
        read_annotations(rows, relation, "")


def test_nouns_of_the_built_in_tagger():
    find = choose_nouns("pattern", frozenset({"glass", "bus", "dog"}))
    assert find("Two dogs and a bus quickly passed a glass.") == ["dog", "bus", "glass"]


def test_a_model_that_is_not_installed_is_named_with_its_command():
    with pytest.raises(ValueError, match="python -m spacy download no_such_model"):
        choose_similarity("no_such_model")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> str:
    """A spaCy model like en_core_web_lg, of three words whose cosines are known by hand."""
    spacy = pytest.importorskip("spacy", reason="spaCy is an optional package")
    nlp = spacy.blank("en")
    for word, vector in {"lawn": (1, 0), "grass": (0.9, 0.435889894354), "cloud": (0.79, 0.613106843)}.items():
        nlp.vocab.set_vector(word, np.array(vector, dtype="float32"))
    folder = tmp_path_factory.mktemp("spacy")
    nlp.to_disk(folder / "vectors")
    spacy.blank("en").to_disk(folder / "none")
    return str(folder / "vectors")


@pytest.mark.filterwarnings("ignore:.*W008.*:UserWarning")
def test_a_cosine_of_a_model_above_four_fifths_is_similar(vectors):
    similar = choose_similarity(vectors)
    assert similar("lawn", "grass"), "0.9"
    assert not similar("lawn", "cloud"), "0.79"
    assert similar("grass", "cloud"), "0.98"
    assert not similar("lawn", "unheard-of"), "a word without a vector is similar to none"


@pytest.mark.filterwarnings("ignore:.*W008.*:UserWarning")
def test_the_similarity_of_a_model_rescues_a_noun(vectors):
    found = item("cloud", truth="grass", hallu="tree", similar=choose_similarity(vectors))
    assert (found.covered, found.flagged) == ((True,), ())


def test_a_model_without_word_vectors_is_refused(vectors):
    with pytest.raises(ValueError, match="holds no word vectors; use en_core_web_lg"):
        choose_similarity(vectors.replace("vectors", "none"))


def test_real_rows():
    if not DATA.is_dir():
        pytest.skip("AMBER's files are not part of the project")
    relation = json.loads((DATA / "relation.json").read_text())
    rows = json.loads((DATA / "annotations_sample.json").read_text())
    by_id, words = read_annotations(rows, relation, (DATA / "safe_words.txt").read_text())
    assert len(words.relation) == 340 and "light" in words.safe
    texts = {"1": "A person walks on the road beside a lake under a cloud.", "1005": "Yes", "8633": "No", "13558": "No"}
    scores = score_amber(
        predictions(texts), by_id, words, find_nouns=choose_nouns("pattern", words.known), similar=EXACT
    )
    assert scores.items["nouns_found"].iloc[0] == ["person", "road", "lake", "cloud"]
    assert scores.items["nouns_flagged"].iloc[0] == ["cloud"]
    assert scores.metrics["cover"].value == 3 / 7
    assert scores.metrics["cog"].value == 1 / 5
    assert scores.metrics["accuracy"].value == 1.0
