"""What a response is worth: by its rewards, or by the labels."""

import math

import pandas as pd
import torch

from fisao_pipeline.method.object_spans import ObjectVocabulary
from fisao_pipeline.training.learning import RoundData
from fisao_pipeline.training.ranking import Judge, summed_rewards
from fisao_pipeline.training.rollouts import RolloutBatch
from fisao_pipeline.training.tables import GroundTruth

TEXTS = {
    "a dog": 1,
    "a dog and a cat": 0,  # the cat is not there
    "a dog, a dog and a dog": 1,  # named once is named
    "a cat and a cat": -2,  # false each time
    "a dog and a car": 2,
    "a dog and a book": 1,  # what the annotations cannot know
    "nothing": 0,
}


def data_of(texts, image_id="i0", rewards=None) -> RoundData:
    rows = [
        {
            "response_id": f"r{n}",
            "image_id": image_id,
            "split": "training",
            "text": text,
            "token_starts": [0],
            "token_ends": [len(text)],
        }
        for n, text in enumerate(texts)
    ]
    one = torch.ones(len(rows), 1)
    rollouts = RolloutBatch(
        ["?"] * len(rows), [image_id] * len(rows), one.long(), one.bool(), one, one if rewards is None else rewards
    )
    return RoundData(0, 0, pd.DataFrame(rows), rollouts)


JUDGE = Judge(ObjectVocabulary.load("coco"), GroundTruth({"i0": {"dog", "car"}}, frozenset({"dog", "cat", "car"})))


def test_labels_by_hand():
    assert JUDGE(data_of(TEXTS)).tolist() == list(TEXTS.values())


def test_scores_follow_the_order_of_the_rollouts():
    order = list(TEXTS)[::-1]
    assert JUDGE(data_of(order)).tolist() == [TEXTS[text] for text in order]


def test_an_image_without_annotations_has_no_score():
    assert all(math.isnan(score) for score in JUDGE(data_of(TEXTS, image_id="other")).tolist())


def test_no_mention_at_all():
    assert JUDGE(data_of(["nothing", "much"])).tolist() == [0, 0]


def test_rewards_are_summed():
    rewards = torch.tensor([[1.0, 0.0, -3.0], [0.5, 0.25, 0.0]])
    assert summed_rewards(data_of(["a", "b"], rewards=rewards)).tolist() == [-2, 0.75]
