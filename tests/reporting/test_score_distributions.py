"""Figure 1: what is drawn is what the tables hold, with and without labels."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fisao_pipeline.method.calibration import Baseline, ClassScores
from fisao_pipeline.reporting.score_distributions import score_distributions_figure, separations

BASELINE = Baseline("annotated", ClassScores(0.3, 0.05, 3), ClassScores(0.1, 0.05, 2), 0.6, 1.0)
MIXTURE = Baseline("mixture", ClassScores(0.3, 0.1, 3), ClassScores(0.1, 0.1, 2), 0.6, 0.921)
MENTIONS = pd.DataFrame(
    {
        "split": ["calibration"] * 5 + ["training"],
        "score": [0.25, 0.3, 0.35, 0.05, 0.15, 9.0],
        "label": pd.Series(["correct"] * 3 + ["hallucinated"] * 2 + ["correct"], dtype="str"),
    }
)
RESPONSES = pd.DataFrame(
    {
        "split": "calibration",
        "sentence_score": [0.2, 0.3, 0.2, 0.1],
        "label": pd.Series(["clean", "clean", "hallucinating", None], dtype="str"),
    }
)


def unlabelled(table):
    return table.assign(label=pd.Series([None] * len(table), dtype="str"))


def drawn(mentions=MENTIONS, responses=RESPONSES, baseline=BASELINE, thresholds=(0.2, 0.2)):
    return score_distributions_figure(mentions, responses, baseline, thresholds, sentence_mean=0.22, bins=6)


def texts(figure):
    return [annotation.text for annotation in figure.layout.annotations]


def test_numbers_of_both_levels():
    # Sentence level: of two pairs one is won and one a tie.
    found = separations(MENTIONS, RESPONSES, bins=2)
    assert found == pytest.approx(
        {"token.auroc": 1.0, "token.overlap": 0.0, "sentence.auroc": 0.75, "sentence.overlap": 0.5}
    )


def test_each_class_is_a_density_of_the_calibration_split():
    bars = {bar.name: bar for bar in drawn().data}
    assert set(bars) == {
        "correct mentions (n = 3)",
        "hallucinated mentions (n = 2)",
        "clean responses (n = 2)",
        "hallucinating responses (n = 1)",
    }
    for bar in bars.values():
        assert sum(bar.y) * (bar.x[1] - bar.x[0]) == pytest.approx(1.0)
    bar = bars["correct mentions (n = 3)"]
    assert np.average(bar.x, weights=bar.y) == pytest.approx(0.3, abs=0.03)
    assert max(bar.x) < 1, "the training split is not drawn"


def test_numbers_and_lines_are_on_the_figure():
    figure = drawn()
    assert "Token level: object mentions<br>AUROC 1.000, overlap 0.000" in texts(figure)
    assert any("AUROC 0.750" in text for text in texts(figure))
    lines = {shape.x0 for shape in figure.layout.shapes}
    assert lines == {0.1, 0.3, 0.2, 0.22}
    assert {"μ_cor", "μ_hal", "threshold", "mean"} <= set(texts(figure))


def test_a_dead_zone_has_two_thresholds():
    figure = drawn(thresholds=(0.08, 0.32))
    assert {0.08, 0.32} <= {shape.x0 for shape in figure.layout.shapes}
    assert {"costs below", "earns above"} <= set(texts(figure))


@pytest.mark.parametrize("mode", ["mixture", "contrast"])
def test_without_labels_all_mentions_and_the_fitted_densities(mode):
    figure = drawn(unlabelled(MENTIONS), unlabelled(RESPONSES), replace(MIXTURE, mode=mode))
    traces = {trace.name: trace for trace in figure.data}
    assert {"all mentions (n = 5)", "all responses (n = 4)"} < set(traces)
    step = traces["both components"].x[1] - traces["both components"].x[0]
    for name, share, mean in (("correct", 0.6, 0.3), ("hallucinated", 0.4, 0.1)):
        curve = traces[f"fitted component: {name}"]
        assert sum(curve.y) * step == pytest.approx(share, rel=0.02)
        assert curve.x[int(np.argmax(curve.y))] == pytest.approx(mean, abs=0.01)
    # Two standard deviations apart: 2Φ(−1).
    assert any("fitted, not measured: AUROC 0.921, overlap 0.317" in text for text in texts(figure))
    assert "common area" not in figure.layout.title.subtitle.text


def test_a_fixed_baseline_without_labels_measures_nothing():
    fixed = Baseline("fixed", ClassScores(0.3, 0.1, 0), ClassScores(0.1, 0.1, 0), 0.5, None)
    figure = drawn(unlabelled(MENTIONS), unlabelled(RESPONSES), fixed)
    assert any(text.endswith("no labels of both kinds: no AUROC") for text in texts(figure))
    assert "assumed component: correct" in {trace.name for trace in figure.data}


def test_nothing_scored():
    figure = drawn(MENTIONS.head(0), RESPONSES.head(0))
    assert texts(figure) == ["No calibration response was scored."]
    only_sentences = drawn(MENTIONS.head(0))
    assert "clean responses (n = 2)" in {trace.name for trace in only_sentences.data}
