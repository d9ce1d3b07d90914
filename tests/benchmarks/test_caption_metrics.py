"""BLEU, ROUGE-L and CIDEr against what pycocoevalcap computed of the same tokens, to 1e-9."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fisao_pipeline.benchmarks.caption_metrics import bleu, cider, coco_tokens, rouge_l, score_captions

# Hand-made rows first (an exact match, ties of length, no match, empty texts, double blanks), then random ones.
REFERENCE = json.loads((Path(__file__).parents[1] / "references" / "caption_metrics_pycocoevalcap.json").read_text())
ROWS = REFERENCE["rows"]
CAPTIONS, OWN = [row["caption"] for row in ROWS], [row["references"] for row in ROWS]


def test_every_caption_is_scored_as_by_pycocoevalcap():
    _, single = bleu(CAPTIONS, OWN)
    np.testing.assert_allclose(single, [row["bleu"] for row in ROWS], rtol=0, atol=1e-9)
    found = [rouge_l(caption, own) for caption, own in zip(CAPTIONS, OWN, strict=True)]
    np.testing.assert_allclose(found, [row["rouge_l"] for row in ROWS], rtol=0, atol=1e-9)
    np.testing.assert_allclose(cider(CAPTIONS, OWN), [row["cider"] for row in ROWS], rtol=0, atol=1e-9)


def predictions(captions) -> pd.DataFrame:
    ids = [str(place) for place in range(len(captions))]
    return pd.DataFrame({"line": range(1, len(captions) + 1), "item_id": ids, "response": captions})


def test_the_corpus_is_scored_as_by_pycocoevalcap():
    scores = score_captions(
        predictions(CAPTIONS), dict(zip(map(str, range(len(OWN))), OWN, strict=True)), tokenize=False
    )
    expected = {f"bleu_{size}": value for size, value in enumerate(REFERENCE["corpus"]["bleu"], start=1)}
    expected |= {name: REFERENCE["corpus"][name] for name in ("rouge_l", "cider")}
    for name, value in expected.items():
        assert scores.metrics[name].value == pytest.approx(value, rel=0, abs=1e-9), name
    mean = (expected["bleu_4"] + expected["rouge_l"] + expected["cider"]) / 3
    assert scores.metrics["bleu_4_rouge_l_cider_mean"].value == pytest.approx(mean)
    assert scores.metrics["bleu_4"].low is None and scores.metrics["cider"].low < scores.metrics["cider"].value


TEXTS = st.lists(st.sampled_from(["a", "dog", "cat", "on"]), max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=6)


@settings(deadline=None)
@given(PAIRS)
def test_the_package_itself_agrees_where_it_is_installed(pairs):
    reference = pytest.importorskip("pycocoevalcap.bleu.bleu", reason="pycocoevalcap is no dependency of the project")
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    captions, own = zip(*pairs, strict=True)
    assume(any(text for some in own for text in some))  # else it fails
    results = {place: [caption] for place, caption in enumerate(captions)}
    truths = dict(enumerate(own))
    corpus, single = bleu(captions, own)
    values, by_image = reference.Bleu(4).compute_score(truths, results, verbose=0)
    np.testing.assert_allclose(corpus, values, atol=1e-9)
    np.testing.assert_allclose(single.T, by_image, atol=1e-9)
    np.testing.assert_allclose(cider(captions, own), Cider().compute_score(truths, results)[1], atol=1e-9)
    rouge = [rouge_l(caption, some) for caption, some in pairs]
    np.testing.assert_allclose(rouge, Rouge().compute_score(truths, results)[1], atol=1e-9)


@settings(deadline=None)
@given(PAIRS, st.randoms())
def test_the_order_of_captions_does_not_matter(pairs, rng):
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    for score in (lambda some: bleu(*zip(*some, strict=True))[0], lambda some: sorted(cider(*zip(*some, strict=True)))):
        np.testing.assert_allclose(score(pairs), score(shuffled), rtol=1e-9, atol=1e-12)


def test_bleu_hand_computed():
    # Three of four words match; length 4 against the nearest reference, of 5.
    values, _ = bleu(["a dog sat here"], [["a dog sat there today", "a"]])
    assert values[0] == pytest.approx(3 / 4 * math.exp(1 - 5 / 4))
    assert values[1] == pytest.approx(math.sqrt(3 / 4 * 2 / 3) * math.exp(1 - 5 / 4))


def test_rouge_takes_precision_and_recall_from_different_references():
    # Precision 1 from the long reference, recall 1 from the short one.
    assert rouge_l("a dog sits", ["a dog sits on the mat", "dog"]) == 1.0


def test_cider_of_a_single_image_is_zero():
    assert cider(["a dog sits"], [["a dog sits"]]) == [0.0]


def test_tokens_are_lower_case_words_without_punctuation():
    assert coco_tokens("A dog's toy, (red) -- on the mat. It's here!") == "a dog 's toy red on the mat it 's here"


def test_a_caption_of_a_hundred_thousand_characters():
    caption = "a dog sits on the mat " * 5000
    assert 0 < rouge_l(caption.strip(), ["a dog sits on the red mat"]) < 1
    scores = score_captions(predictions([caption, "a cat"]), {"0": ["a dog sits"], "1": ["a cat"]})
    assert scores.items["bleu_1"].iloc[0] < 0.01
