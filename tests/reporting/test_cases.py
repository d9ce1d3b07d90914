"""The pictures that a report shows are the comparison's examples, with whole answers and what each mention earns."""

import pandas as pd
import pytest
from tests.reporting.report_sources import mentions, predictions, sources

from fisao_pipeline.reporting.cases import SHOWN_CHARACTERS, Answer, Mention, shown_cases


def examples(*, win=(), lose=(), tie=()):
    def one(image_id):
        said = {"base": ["bench", "cat"], "aligned": ["cat"]}
        answers = {model: {"answers": [{"hallucinated": names}]} for model, names in said.items()}
        return {"image_id": image_id, "true_objects": ["dog"], "recall_change": 0.5, **answers}

    return {kind: [one(i) for i in ids] for kind, ids in {"win": win, "lose": lose, "tie": tie}.items()}


def test_a_case_holds_both_models_answers_with_their_mentions():
    table = predictions()
    (case,) = shown_cases({"greedy": examples(win=["i0"])}, table, mentions(table))
    assert (case.kind, case.decoding, case.image_id, case.true_objects) == ("better", "greedy", "i0", ("dog",))
    assert (case.false_mentions, case.recall_change) == ({"base": 2, "aligned": 1}, 0.5)
    (base,), (aligned,) = case.answers["base"], case.answers["aligned"]
    assert (base.prompt, base.text, base.reward) == ("Describe.", "A dog, a cat and a bench.", -1.0)
    assert [(m.category, m.start, m.end, m.reward, m.label) for m in aligned.mentions] == [
        ("dog", 2, 5, 1.0, "correct"),
        ("car", 12, 15, 1.0, "correct"),
    ]
    assert case.categories == ["bench", "car", "cat", "dog"]


def test_decodings_and_kinds_stay_apart_and_in_order():
    table = predictions()
    chosen = {"greedy": examples(win=["i1", "i0"], tie=["i4"]), "sampled": examples(lose=["i3"])}
    cases = shown_cases(chosen, table, mentions(table))
    assert [(case.decoding, case.kind, case.image_id) for case in cases] == [
        ("greedy", "better", "i1"),
        ("greedy", "better", "i0"),
        ("greedy", "tie", "i4"),
        ("sampled", "worse", "i3"),
    ]


def test_the_order_of_the_tables_changes_nothing():
    table = predictions()
    chosen = {"greedy": examples(win=["i0", "i1"])}
    turned = [one.iloc[::-1].reset_index(drop=True) for one in (table, mentions(table))]
    assert shown_cases(chosen, table, mentions(table)) == shown_cases(chosen, *turned)


def test_samples_of_one_picture_keep_their_own_mentions():
    table = predictions(decodings=("sampled",))
    second = table.assign(sample_index=1, response="Nothing.")
    both = pd.concat([table, second[second["task"] == "caption"]], ignore_index=True)
    (case,) = shown_cases({"sampled": examples(win=["i0"])}, both, mentions(table))
    assert [(a.text, len(a.mentions)) for a in case.answers["aligned"]] == [("A dog and a car.", 2), ("Nothing.", 0)]


def test_the_comparison_decides_what_is_better():
    made = sources()
    first = made.cases[0]
    assert (first.kind, first.image_id, first.false_mentions) == ("better", "i0", {"base": 2, "aligned": 0})
    assert [case.image_id for case in made.cases if case.kind == "worse"] == ["i3", "i3"]


def mention(start, end):
    return Mention(start, end, "x", 0.0, 0.0, None, False)


def test_a_text_is_cut_at_its_mentions_and_nothing_is_lost():
    text = "a dog, a cat"
    pieces = list(Answer("", text, (mention(2, 5), mention(3, 8), mention(9, 12))).pieces())
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, found in pieces if found] == ["dog", "cat"]


@pytest.mark.parametrize("place", [10, SHOWN_CHARACTERS - 1, SHOWN_CHARACTERS + 10])
def test_of_a_very_long_answer_the_beginning_is_shown(place):
    text = "x" * (SHOWN_CHARACTERS + 100)
    pieces = list(Answer("", text, (mention(place, place + 5),)).pieces())
    assert "".join(piece for piece, _ in pieces) == text[:SHOWN_CHARACTERS] + "…"
    assert bool([found for _, found in pieces if found]) == (place == 10)
