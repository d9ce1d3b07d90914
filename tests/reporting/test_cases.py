"""Which cases are shown: by a rule, the same ones whatever the order of the tables."""

import pandas as pd
import pytest

from fisao_pipeline.reporting.cases import Answer, Mention, choose_cases

CHANGES = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0, "e": 0.0, "f": -1.0, "g": -2.0}


def tables(changes=CHANGES):
    """One prompt per change; the aligned model's only mention earns it, the base model names nothing."""
    predictions, mentions = [], []
    for prompt, change in changes.items():
        for model in ("base", "aligned"):
            predictions += [
                (model, "greedy", "caption", prompt, f"image {prompt}", "Describe.", f"{model} {prompt}"),
                (model, "sampled", "caption", prompt, f"image {prompt}", "Describe.", "sampled"),
                (model, "greedy", "pope", f"pope {prompt}", f"image {prompt}", "Is there?", "Yes."),
            ]
        mentions.append(("aligned", "greedy", prompt, 0, 7, "dog", 0.3, change, "correct", False))
        mentions.append(("aligned", "sampled", prompt, 0, 7, "dog", 0.3, -99.0, None, False))
    columns = ["model", "decoding", "task", "prompt_id", "image_id", "prompt", "response"]
    found = [
        "model decoding prompt_id char_start char_end category score reward label repeated".split(),
    ][0]
    return pd.DataFrame(predictions, columns=columns), pd.DataFrame(mentions, columns=found)


def shown(cases):
    return [(case.kind, case.prompt_id) for case in cases]


def test_the_rule_by_hand():
    # The median of all changes is 0: of what is left, d and e lie on it.
    assert shown(choose_cases(*tables(), 6)) == [
        ("gained", "a"),
        ("gained", "b"),
        ("typical", "d"),
        ("typical", "e"),
        ("lost", "g"),
        ("lost", "f"),
    ]


def test_what_does_not_divide_goes_to_those_that_gained():
    assert [kind for kind, _ in shown(choose_cases(*tables(), 5))] == ["gained"] * 3 + ["typical", "lost"]
    assert shown(choose_cases(*tables(), 1)) == [("gained", "a")]


def test_no_regression_is_made_up():
    cases = choose_cases(*tables({"a": 2.0, "b": 1.0, "c": 0.0}), 9)
    assert shown(cases) == [("gained", "a"), ("gained", "b"), ("typical", "c")]


def test_the_order_of_the_tables_changes_nothing_and_ties_go_by_prompt_id():
    predictions, mentions = tables(dict.fromkeys("cab", 1.0))
    turned = [table.iloc[::-1].reset_index(drop=True) for table in (predictions, mentions)]
    assert choose_cases(predictions, mentions, 4) == choose_cases(*turned, 4)
    assert shown(choose_cases(predictions, mentions, 4))[:2] == [("gained", "a"), ("gained", "b")]


def test_a_case_holds_both_greedy_answers():
    (case,) = choose_cases(*tables(), 1)
    assert [(answer.model, answer.text, answer.reward) for answer in case.answers] == [
        ("base", "base a", 0),
        ("aligned", "aligned a", 3.0),
    ]
    assert (case.prompt, case.image_id, case.change) == ("Describe.", "image a", 3.0)
    assert case.answers[1].mentions == (Mention(0, 7, "dog", 0.3, 3.0, "correct", False),)


def test_nothing_to_compare():
    predictions, mentions = tables()
    assert choose_cases(predictions[predictions["decoding"] == "sampled"], mentions, 6) == []
    assert choose_cases(predictions[predictions["model"] == "base"], mentions, 6) == []


@pytest.mark.parametrize("order", [1, -1])
def test_a_text_is_cut_at_its_mentions_and_nothing_is_lost(order):
    text = "a dog, a cat"
    dog, cat, clash = (Mention(*span, "x", 0.0, 0.0, None, False) for span in ((2, 5), (9, 12), (3, 8)))
    pieces = list(Answer("base", text, (dog, clash, cat)[::order]).pieces())
    assert "".join(piece for piece, _ in pieces) == text
    assert [(piece, mention) for piece, mention in pieces if mention] == [("dog", dog), ("cat", cat)]
