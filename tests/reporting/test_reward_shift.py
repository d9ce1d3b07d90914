"""Figure 4: mentions per 100 captions by reward, captions without any mention counted."""

import pandas as pd
import pytest

from fisao_pipeline.reporting.reward_shift import reward_shift_figure

MENTIONS = pd.DataFrame(
    [("base", "greedy", -1.0), ("base", "greedy", 1.0), ("base", "greedy", 1.0), ("aligned", "greedy", 1.0)],
    columns=["model", "decoding", "reward"],
)
CAPTIONS = {("base", "greedy"): 2, ("aligned", "greedy"): 4, ("base", "sampled"): 2, ("aligned", "sampled"): 2}


def test_counts_are_per_hundred_captions():
    figure = reward_shift_figure(MENTIONS, CAPTIONS, bins=4)
    greedy = {bar.name: bar for bar in figure.data if bar.xaxis == "x"}
    assert list(greedy["base"].x) == pytest.approx([-0.75, -0.25, 0.25, 0.75])
    assert list(greedy["base"].y) == pytest.approx([50.0, 0.0, 0.0, 100.0])
    assert list(greedy["aligned"].y) == pytest.approx([0.0, 0.0, 0.0, 25.0])


def test_means_are_in_the_title_and_a_silent_model_has_none():
    greedy, sampled = (a.text for a in reward_shift_figure(MENTIONS, CAPTIONS, bins=4).layout.annotations)
    assert "base: mean +0.33, 33% negative, 1.50 per caption" in greedy
    assert "aligned: mean +1.00, 0% negative, 0.25 per caption" in greedy
    assert sampled == "sampled<br>base: no mention<br>aligned: no mention"


def test_no_mention_at_all():
    figure = reward_shift_figure(MENTIONS.head(0), CAPTIONS, bins=4)
    assert not figure.data
    assert "Neither model names an object" in figure.layout.annotations[0].text
