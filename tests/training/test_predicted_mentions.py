"""Mentions of both models' captions: each with its own caption's keys, score, label and reward."""

import pandas as pd
import pytest
import torch

from fisao_pipeline.method.object_spans import ObjectVocabulary
from fisao_pipeline.params.reward_annotation import ContrastParams, FixedBaseline, RewardAnnotationParams
from fisao_pipeline.training.baseline import calibrate
from fisao_pipeline.training.predicted_mentions import PREDICTION_KEYS, mentions_of_predictions
from fisao_pipeline.training.tables import GroundTruth

PARAMS = RewardAnnotationParams(
    vocabulary="coco",
    template="a photo of a {}",
    score_words="category",
    calibration="fixed",
    fixed_baseline=FixedBaseline(
        correct_mean=0.3, hallucinated_mean=0.1, std=0.05, mixing_weight=0.5, sentence_mean=0.2, sentence_std=0.1
    ),
    min_mentions=2,
    contrast=ContrastParams(agreement=0.75, absent_words=2, seed=0),
    granularity="token",
    phrase_words=3,
    paid_by="verifier",
    rule="midpoint",
    margin=0.0,
    false_mention_cost=2.0,
    repeat_penalty=0.5,
    min_auroc=0.6,
)
TRUTH = GroundTruth({"i": {"dog"}, "j": {"cat"}}, frozenset({"dog", "cat"}))
PREDICTIONS = pd.DataFrame(
    [
        ("base", "greedy", "p", 0, "i", "caption", "two dogs and a traffic light"),
        ("base", "greedy", "p", 0, "i", "pope", "Yes, a dog."),
        ("aligned", "greedy", "p", 0, "i", "caption", "Nothing."),
        ("aligned", "sampled", "q", 1, "j", "caption", "a cat, and a dog,a cat"),
    ],
    columns=["model", "decoding", "prompt_id", "sample_index", "image_id", "task", "response"],
)


class StubVerifier:
    """0.3 for dogs, 0.1 for all else; with another offset on the second picture."""

    def score(self, image_ids, texts, open_image, whole_responses=False):
        pairs = zip(image_ids, texts, strict=True)
        return torch.tensor([(0.3 if "dog" in text else 0.1) + 0.05 * (image == "j") for image, text in pairs])


def scored(predictions=PREDICTIONS, **changes):
    params = PARAMS.model_copy(update=changes)
    none = pd.DataFrame({"split": []})
    baseline = calibrate(none, none, None, params, None)
    vocabulary = ObjectVocabulary.load("coco")
    return mentions_of_predictions(predictions, StubVerifier(), vocabulary, TRUTH, baseline, None)


def test_each_mention_is_its_captions():
    table = scored()
    assert table[[*PREDICTION_KEYS, "category"]].values.tolist() == [
        ["base", "greedy", "p", 0, "dog"],
        ["base", "greedy", "p", 0, "traffic light"],
        ["aligned", "sampled", "q", 1, "cat"],
        ["aligned", "sampled", "q", 1, "dog"],
        ["aligned", "sampled", "q", 1, "cat"],
    ]
    captions = PREDICTIONS[PREDICTIONS["task"] == "caption"].set_index(PREDICTION_KEYS)["response"]
    for row in table.itertuples():
        text = captions[row.model, row.decoding, row.prompt_id, row.sample_index]
        assert text[row.char_start : row.char_end] == row.text


def test_scores_labels_and_rewards_by_hand():
    table = scored()
    assert table["score"].tolist() == pytest.approx([0.3, 0.1, 0.15, 0.35, 0.15])
    # A traffic light is nowhere in these annotations, so they cannot know it.
    labels = [None if pd.isna(label) else label for label in table["label"]]
    assert labels == ["correct", None, "correct", "hallucinated", "correct"]
    # (S − 0.2) / 0.2; the second cat keeps its negative and pays 0.5.
    assert table["reward"].tolist() == pytest.approx([0.5, -0.5, -0.25, 0.75, -0.75])


def test_mentions_are_paid_in_a_sentence_level_run_too():
    assert scored(granularity="sentence")["reward"].tolist() == scored()["reward"].tolist()


def test_no_mention_no_row():
    table = scored(PREDICTIONS[PREDICTIONS["model"].eq("aligned") & PREDICTIONS["decoding"].eq("greedy")])
    assert table.empty
    assert {*PREDICTION_KEYS, "score", "label", "reward", "char_start", "repeated"} <= set(table)


def test_mentions_are_paid_by_the_settings_in_the_baseline():
    assert scored(repeat_penalty=0.0)["reward"].tolist() == pytest.approx([0.5, -0.5, -0.25, 0.75, -0.25])
