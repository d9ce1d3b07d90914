"""The verifier's share in what is still hallucinated, counted by hand."""

import pandas as pd
import pytest

from fisao_pipeline.benchmarks.verifier_errors import format_errors, verifier_errors


def table(*rows):
    mentions = pd.DataFrame(rows, columns=["model", "label", "reward", "repeated"])
    return mentions.assign(decoding="greedy", label=mentions["label"].astype("str").where(mentions["label"].notna()))


MENTIONS = table(
    ("base", "correct", 0.9, False),
    ("base", "correct", 0.8, False),
    ("base", "correct", -0.2, False),
    ("base", "hallucinated", -1.0, False),
    ("base", "hallucinated", 0.5, False),
    # Charged as a repeat and not for its score; and one that no annotation knows.
    ("base", "correct", -2.0, True),
    ("base", None, 0.9, False),
    ("aligned", "correct", 0.9, False),
    ("aligned", "hallucinated", 0.3, False),
)


def test_by_hand():
    errors = verifier_errors(MENTIONS)
    assert errors["greedy"]["base"] == {
        "mentions": 5,
        "hallucinated": 2,
        "chair_i": pytest.approx(0.4),
        "approved": pytest.approx(0.5),
        "charged": pytest.approx(1 / 3),
        "chair_i_filtered": pytest.approx(1 / 3),
    }
    assert errors["greedy"]["aligned"]["approved"] == 1.0
    assert errors["greedy"]["aligned"]["charged"] == 0.0


def test_in_words():
    words = format_errors(verifier_errors(MENTIONS))
    assert "greedy, repeats left out: CHAIR_i 40.0 % -> 50.0 %" in words, "the table's CHAIR_i is of all mentions"
    assert "would leave 33.3 %, taking 33.3 %" in words
    assert "100.0 % of the 1 hallucinations" in words


def test_nothing_to_share():
    errors = verifier_errors(table(("base", "correct", -1.0, False)))
    assert errors["greedy"]["base"]["approved"] is None
    assert errors["greedy"]["base"]["chair_i_filtered"] is None
    assert format_errors(errors) == ""
    assert verifier_errors(MENTIONS.head(0)) == {}
