"""Figure 2: points, r with its interval, and what is said where there is none."""

import numpy as np
import pandas as pd

from fisao_pipeline.reporting.reward_quality import reward_quality_figure

N = 10
POINTS = pd.DataFrame(
    {
        "sentence_reward": np.arange(N) / 100,
        "token_reward": np.arange(N) / 10,
        "bleu": np.linspace(0, 1, N),
        "rouge_l": np.linspace(1, 0, N),
    }
)
CORRELATIONS = pd.DataFrame(
    [
        ("sentence_reward", "bleu", 0.1, -0.1, 0.3, N),
        ("sentence_reward", "rouge_l", 0.2, None, None, N),
        ("token_reward", "bleu", 0.5, 0.4, 0.6, N),
        ("token_reward", "rouge_l", None, None, None, N),
    ],
    columns=["reward", "quality", "r", "low", "high", "n"],
)


def drawn(points=POINTS, correlations=CORRELATIONS, max_points=100):
    return reward_quality_figure(points, correlations, "BLEU: so. ROUGE-L: so.", 0.95, max_points)


def titles(figure):
    return [annotation.text for annotation in figure.layout.annotations]


def test_each_panel_has_its_own_columns_and_its_own_r():
    figure = drawn()
    expected = [
        ("sentence_reward", "bleu", "r = 0.100 [-0.100, 0.300]"),
        ("token_reward", "bleu", "r = 0.500 [0.400, 0.600]"),
        ("sentence_reward", "rouge_l", "r = 0.200"),
        ("token_reward", "rouge_l", "r undefined: no spread (n = 10)"),
    ]
    for trace, title, (reward, quality, caption) in zip(figure.data, titles(figure), expected, strict=True):
        np.testing.assert_allclose(trace.x, POINTS[reward], atol=1e-5)
        np.testing.assert_allclose(trace.y, POINTS[quality], atol=1e-5)
        assert title == caption


def test_the_implementation_is_stated():
    note = drawn().layout.title.subtitle.text
    assert "BLEU: so.<br>ROUGE-L: so." in note
    assert "95% bootstrap interval" in note


def test_no_more_points_than_asked_for_and_this_is_said():
    figure = drawn(max_points=4)
    assert {len(trace.x) for trace in figure.data} == {4}
    assert "10 calibration responses, 4 drawn" in figure.layout.title.subtitle.text


def test_a_run_without_token_rewards_says_so():
    correlations = CORRELATIONS.assign(n=[N, N, 0, 0])
    figure = drawn(POINTS.assign(token_reward=None), correlations)
    assert titles(figure).count("this run has no token-level rewards") == 2
    assert [len(trace.x) for trace in figure.data] == [N, 0, N, 0]


def test_without_captions_the_figure_says_why_it_is_empty():
    figure = drawn(POINTS.head(0), CORRELATIONS.assign(n=0))
    assert not figure.data
    assert titles(figure) == ["No image of the calibration split has reference captions."]
