"""The project's plotly figures become panels without losing what they say."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io

from fisao_pipeline.reporting.drawings import Line, Points, Rule, Steps
from fisao_pipeline.reporting.plotly_panels import notes, panels, reason
from fisao_pipeline.reporting.reward_quality import reward_quality_figure
from fisao_pipeline.reporting.reward_shift import reward_shift_figure
from fisao_pipeline.reporting.style import empty_figure, histogram, laid_out, vertical


def stored(figure: go.Figure) -> go.Figure:
    """As the catalog gives it back."""
    return plotly.io.from_json(figure.to_json())


def test_bars_lines_and_rules():
    empty = go.Figure().set_subplots(1, 2, subplot_titles=("Left<br>AUROC 0.9", "Right"))
    figure = laid_out(empty, "Both", "a note<br>It has more.")
    bars = histogram([0.1, 0.4, 0.4], np.array([0.0, 0.3, 0.6]), "correct", "#0072B2", weight=2)
    figure.add_trace(bars, row=1, col=1)
    line = {"color": "#D55E00", "dash": "dot"}
    figure.add_trace(go.Scatter(x=[0, 1], y=[2, 3], mode="lines", line=line, name="fit"), row=1, col=2)
    vertical(figure, 0.25, "mean", "#333333", col=1)
    vertical(figure, 0.35, "above", "#0072B2", col=1, level=1)
    figure.update_xaxes(title_text="cosine").update_yaxes(title_text="density", col=1)
    left, right = panels(stored(figure))
    (steps,) = left.series
    assert isinstance(steps, Steps)
    assert np.allclose(steps.edges, [0, 0.3, 0.6]) and list(steps.heights) == [2, 4]
    assert (steps.colour, steps.label) == ("blue", "correct")
    assert (left.title, list(left.notes), left.x_title, left.y_title, left.from_zero) == (
        "Left",
        ["AUROC 0.9"],
        "cosine",
        "density",
        True,
    )
    assert list(left.rules) == [Rule(0.25, "mean", "ink"), Rule(0.35, "above", "blue", 1)]
    assert right.series == [Line([0, 1], [2, 3], "vermilion", "fit", dashed=True)]
    assert (right.title, right.rules, right.from_zero) == ("Right", [], False)
    assert notes(figure) == "a note. It has more."


def test_figure_2():
    count = 300
    columns = ("sentence_reward", "token_reward", "bleu", "rouge_l")
    points = pd.DataFrame({name: np.arange(count) / count for name in columns})
    rows = [(r, q, 1.0, 0.9, 1.0, count) for r in ("sentence_reward", "token_reward") for q in ("bleu", "rouge_l")]
    correlations = pd.DataFrame(rows, columns=["reward", "quality", "r", "low", "high", "n"])
    made = panels(stored(reward_quality_figure(points, correlations, "BLEU. ROUGE", 0.95, count)))
    assert len(made) == 4
    assert all(isinstance(one, Points) and len(one.x) == count for panel in made for one in panel.series)
    assert made[0].title == "r = 1.000 [0.900, 1.000]" and not made[0].from_zero


def test_figure_4_has_a_panel_for_each_decoding():
    mentions = pd.DataFrame(
        {
            "model": ["base", "aligned"] * 2,
            "decoding": ["greedy"] * 2 + ["sampled"] * 2,
            "reward": [-1.0, 1.0, -1.0, 1.0],
        }
    )
    captions = {(model, decoding): 1 for model in ("base", "aligned") for decoding in ("greedy", "sampled")}
    made = panels(stored(reward_shift_figure(mentions, captions, 4)))
    assert [panel.title for panel in made] == ["greedy", "sampled"]
    assert [[one.colour for one in panel.series] for panel in made] == [["grey", "green"]] * 2
    assert {panel.y_title for panel in made} == {"mentions per 100 captions"}
    assert [rule.x for panel in made for rule in panel.rules] == [0, 0]


def test_an_empty_figure_says_why():
    figure = stored(empty_figure("Rewards", "No captions."))
    assert panels(figure) == [] and reason(figure) == "No captions."
