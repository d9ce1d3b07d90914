"""CLIPScore from cosines."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from fisao_pipeline.benchmarks.clip_score import clip_score, clip_text, score_clip


def test_negative_cosines_count_as_nothing():
    assert clip_score(0.3) == pytest.approx(0.75)
    assert clip_score(-0.2) == 0.0


@pytest.mark.parametrize("cosine", [1.1, -2, math.nan])
def test_no_cosine(cosine):
    with pytest.raises(ValueError, match="between -1 and 1"):
        clip_score(cosine)


def test_what_clip_reads():
    assert clip_text("a dog") == "A photo depicts a dog"


def test_the_mean_over_captions():
    rows = pd.DataFrame({"line": [1, 2], "item_id": ["a", "b"], "response": [0.2, -0.1]})
    assert score_clip(rows).metrics["clip_score"].value == pytest.approx(0.25)
