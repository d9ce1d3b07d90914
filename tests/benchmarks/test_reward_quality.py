"""Figure 2's table: only responses with a score and captions, each with its own numbers."""

import pandas as pd
import pytest

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings
from fisao_pipeline.benchmarks.reward_quality import POINT_COLUMNS, reward_correlations, reward_points

RESPONSES = pd.DataFrame(
    {"response_id": list("abcd"), "image_id": ["i", "j", "k", "l"], "text": ["a dog", "a cat", "a bus", "a cup"]}
)
SCORES = pd.DataFrame({"response_id": list("cba"), "sentence_score": [0.3, 0.2, 0.1], "split": "calibration"})
REWARDS = pd.DataFrame({"response_id": list("abcd"), "token_rewards": [[0.0, 1.0, -0.5], [0.0], [2.0], [3.0]]})
MANIFEST = pd.DataFrame({"image_id": list("ijkl"), "captions": [["a dog"], ["a dog"], None, ["a cup"]]})


def points(granularity="token", manifest=MANIFEST):
    return reward_points(RESPONSES, SCORES, REWARDS, manifest, granularity=granularity)


def test_rows_belong_together_and_unscored_or_uncaptioned_ones_are_left_out():
    table = points().set_index("response_id")
    assert sorted(table.index) == ["a", "b"], "c has no captions, d no score"
    assert table["sentence_reward"].to_dict() == {"a": 0.1, "b": 0.2}
    assert table["token_reward"].to_dict() == {"a": 0.5, "b": 0.0}
    assert table["rouge_l"].to_dict() == {"a": 1.0, "b": 0.5}


def test_sentence_rewards_are_not_passed_off_as_token_rewards():
    assert points("sentence")["token_reward"].isna().all()
    found = reward_correlations(points("sentence"), BootstrapSettings(100)).set_index("reward")
    assert found.loc["token_reward", "n"].tolist() == [0, 0]
    assert found.loc["sentence_reward", "n"].tolist() == [2, 2]


def test_rewards_of_phrases_are_rewards_of_tokens():
    assert points("phrase").equals(points("token"))


def test_no_captions_no_rows():
    for captions in (None, [[], [], [], []]):
        empty = points(manifest=MANIFEST.assign(captions=captions))
        assert empty.empty
        assert list(empty) == list(POINT_COLUMNS)
        assert reward_correlations(empty, BootstrapSettings(100))["n"].sum() == 0


def test_correlations_are_of_the_right_columns():
    table = pd.DataFrame(
        {
            "image_id": list("ijkl"),
            "sentence_reward": [1.0, 2.0, 3.0, 4.0],
            "token_reward": [4.0, 3.0, 2.0, 1.0],
            "bleu": [1.0, 3.0, 2.0, 4.0],
            "rouge_l": [1.0, 2.0, 3.0, 4.0],
        }
    )
    found = reward_correlations(table, BootstrapSettings(100)).set_index(["reward", "quality"])["r"]
    assert found.to_dict() == pytest.approx(
        {
            ("sentence_reward", "bleu"): 0.8,
            ("sentence_reward", "rouge_l"): 1.0,
            ("token_reward", "bleu"): -0.8,
            ("token_reward", "rouge_l"): -1.0,
        }
    )
