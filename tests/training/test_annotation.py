"""Token rewards: on the last token of each mention, zero everywhere else, against a baseline that can be trusted."""

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fisao_pipeline.method.calibration import Baseline, CalibrationError, ClassScores, overlap_of_normals
from fisao_pipeline.method.object_spans import ObjectVocabulary
from fisao_pipeline.models.offsets import decode_with_offsets
from fisao_pipeline.params.reward_annotation import ContrastParams, FixedBaseline, RewardAnnotationParams
from fisao_pipeline.training.annotation import annotate
from fisao_pipeline.training.baseline import VerifierBaseline, calibrate
from fisao_pipeline.training.rewards import reward_table
from fisao_pipeline.training.tables import (
    MENTION_COLUMNS,
    GroundTruth,
    label_mentions,
    mention_table,
    response_labels,
    response_score_table,
    score_mentions,
    sentence_scores,
)

VOCABULARY = ObjectVocabulary.load("coco")
FIXED = FixedBaseline(
    correct_mean=0.3, hallucinated_mean=0.1, std=0.05, mixing_weight=0.5, sentence_mean=0.2, sentence_std=0.1
)
PARAMS = RewardAnnotationParams(
    vocabulary="coco",
    template="a photo of a {}",
    score_words="category",
    calibration="fixed",
    fixed_baseline=FIXED,
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


NO_TRUTH = GroundTruth({}, frozenset())


def no_image(image_id):
    raise AssertionError("the stub verifier opens no picture")


class StubVerifier:
    """Scores a text by a table; counts texts of more than eight words as cut."""

    def __init__(self, scores: dict[str, float], default: float = 0.2):
        self.scores, self.default, self.truncated_texts, self.asked = scores, default, 0, []

    def score(self, image_ids, texts, open_image, whole_responses=False):
        self.asked += list(zip(image_ids, texts, strict=True))
        self.truncated_texts += sum(len(text.split()) > 8 for text in set(texts))
        return torch.tensor([self.scores.get(text, self.default) for text in texts])


@pytest.fixture(scope="module")
def tokenizer(world):
    return world.policy(lora=None).tokenizer


@pytest.fixture
def responses_of(tokenizer):
    """A responses table from texts, tokenised by the real tokenizer, end token included."""

    def make(texts, image_ids=None, split="calibration"):
        rows = []
        for number, text in enumerate(texts):
            ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            decoded, spans = decode_with_offsets(tokenizer, ids)
            rows.append(
                {
                    "response_id": f"r{number}",
                    "image_id": image_ids[number] if image_ids else f"i{number}",
                    "split": split,
                    "text": decoded,
                    "token_ids": ids,
                    "token_starts": [s for s, _ in spans],
                    "token_ends": [e for _, e in spans],
                }
            )
        return pd.DataFrame(rows)

    return make


def scored(responses, verifier, params=PARAMS):
    return score_mentions(mention_table(responses, VOCABULARY), verifier, params, no_image)


def rewards_of(responses, verifier, params=PARAMS):
    mentions = scored(responses, verifier, params)
    baseline = calibrate(responses, mentions, verifier, params, no_image)
    return mentions, reward_table(responses, mentions, baseline, verifier, params, no_image)


# --- mentions ------------------------------------------------------------------------------------------------------


def test_a_mentions_spans_are_those_of_its_words_and_of_its_sub_words(responses_of, tokenizer):
    responses = responses_of(["There is a traffic light, a café and two dogs on a street."])
    mentions = mention_table(responses, VOCABULARY)
    assert list(mentions) == list(MENTION_COLUMNS)
    assert mentions["category"].tolist() == ["traffic light", "dog"]
    text, ids = responses.loc[0, "text"], responses.loc[0, "token_ids"]
    for mention in mentions.itertuples():
        assert text[mention.char_start : mention.char_end] == mention.text
        pieces = tokenizer.decode(ids[mention.token_start : mention.token_end]).strip()
        assert mention.text in pieces
        assert len(pieces) <= len(mention.text) + 2, "at most what shares a token with it"
    assert mentions.loc[0, "token_end"] - mentions.loc[0, "token_start"] > 1, "a name of several sub-words"


def test_no_mention_no_row(responses_of):
    mentions = mention_table(responses_of(["Nothing to see.", ""]), VOCABULARY)
    assert mentions.empty
    assert list(mentions) == list(MENTION_COLUMNS)


def test_repeats_are_marked_within_a_response_only(responses_of):
    mentions = mention_table(responses_of(["a dog, a cat and a puppy", "a dog"]), VOCABULARY)
    assert mentions[["category", "repeated"]].values.tolist() == [
        ["dog", False],
        ["cat", False],
        ["dog", True],
        ["dog", False],
    ]


@pytest.mark.parametrize(("words", "expected"), [("category", "bicycle"), ("written", "bikes")])
def test_what_stands_in_the_template(responses_of, words, expected):
    verifier = StubVerifier({})
    scored(responses_of(["Bikes on a street"]), verifier, PARAMS.model_copy(update={"score_words": words}))
    assert verifier.asked == [("i0", f"a photo of a {expected}")]


def test_scores_are_the_verifiers(responses_of):
    verifier = StubVerifier({"a photo of a dog": 0.31, "a photo of a cat": 0.05})
    mentions = scored(responses_of(["a cat and a dog", "a dog"]), verifier)
    np.testing.assert_allclose(mentions["score"], [0.05, 0.31, 0.31], rtol=1e-6)
    assert [image for image, _ in verifier.asked] == ["i0", "i0", "i1"]


# --- labels --------------------------------------------------------------------------------------------------------


def test_labels_are_null_where_the_annotations_cannot_know(responses_of):
    manifest = pd.DataFrame({"image_id": ["i0", "i1", "i2"], "objects": [["dog", "bike"], ["cat"], None]})
    truth = GroundTruth.read(manifest, ["bike", "cat", "dog", "kite", "unicorn"], VOCABULARY)
    assert truth.objects == {"i0": {"dog", "bicycle"}, "i1": {"cat"}}
    assert truth.categories == {"bicycle", "cat", "dog", "kite"}
    responses = responses_of(["a dog, a cat, a bicycle, a giraffe and a kite", "a dog", "a dog and a kite"])
    labels = label_mentions(scored(responses, StubVerifier({})), truth)["label"]
    # No image shows the kite, but it is declared; nobody declares the giraffe, and i2 is not annotated.
    expected = ["correct", "hallucinated", "correct", None, "hallucinated", "hallucinated", None, None]
    assert [None if pd.isna(label) else label for label in labels] == expected


def test_an_annotated_image_without_objects_makes_every_known_name_a_hallucination(responses_of):
    mentions = scored(responses_of(["a dog", "a dog"]), StubVerifier({}))
    truth = GroundTruth({"i0": set(), "i1": {"dog"}}, frozenset({"dog"}))
    assert label_mentions(mentions, truth)["label"].tolist() == ["hallucinated", "correct"]


def test_without_annotations_every_label_is_null(responses_of):
    mentions = label_mentions(scored(responses_of(["a dog"]), StubVerifier({})), NO_TRUTH)
    assert mentions["label"].isna().all()


# --- rewards -------------------------------------------------------------------------------------------------------


def test_the_reward_lies_on_the_last_token_of_each_mention(responses_of):
    verifier = StubVerifier({"a photo of a traffic light": 0.3, "a photo of a dog": 0.1})
    responses = responses_of(["There is a traffic light and a dog on a street.", "Nothing here."])
    mentions, table = rewards_of(responses, verifier)
    rewards = table.loc[0, "token_rewards"]
    assert len(rewards) == len(responses.loc[0, "token_ids"])
    last = (mentions["token_end"] - 1).tolist()
    assert [i for i, r in enumerate(rewards) if r != 0] == last
    # midpoint: (S − 0.2) / 0.2
    np.testing.assert_allclose([rewards[i] for i in last], [0.5, -0.5], atol=1e-6)
    starts, ends = responses.loc[0, "token_starts"], responses.loc[0, "token_ends"]
    for mention, token in zip(mentions.itertuples(), last, strict=True):
        assert starts[token] < mention.char_end <= ends[token]
    assert table.loc[1, "token_rewards"] == [0.0] * len(responses.loc[1, "token_ids"])


def test_each_response_gets_the_rewards_of_its_own_mentions(responses_of):
    verifier = StubVerifier({"a photo of a dog": 0.3, "a photo of a cat": 0.1, "a photo of a bird": 0.22})
    _, table = rewards_of(responses_of(["a dog", "nothing", "a cat and a bird", "a bird"]), verifier)
    totals = [sum(row) for row in table["token_rewards"]]
    np.testing.assert_allclose(totals, [0.5, 0, -0.4, 0.1], atol=1e-6)


def test_a_repeat_earns_nothing_and_pays(responses_of):
    verifier = StubVerifier({"a photo of a dog": 0.3})
    mentions, table = rewards_of(responses_of(["a dog and a dog"]), verifier)
    paid = [table.loc[0, "token_rewards"][end - 1] for end in mentions["token_end"]]
    np.testing.assert_allclose(paid, [0.5, -0.5], atol=1e-6)


def test_the_sentence_reward_lies_on_the_last_token_of_the_response(responses_of):
    params = PARAMS.model_copy(update={"granularity": "sentence"})
    verifier = StubVerifier({"a dog": 0.3, "a cat": 0.15})
    responses = responses_of(["a dog", "a cat"])
    _, table = rewards_of(responses, verifier, params)
    for rewards, total in zip(table["token_rewards"], [1.0, -0.5], strict=True):
        assert rewards[:-1] == [0.0] * (len(rewards) - 1)
        assert rewards[-1] == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused(responses_of, broken):
    with pytest.raises(ValueError, match="NaN or infinite"):
        rewards_of(responses_of(["a dog"]), StubVerifier({"a photo of a dog": broken}))


# --- calibration ---------------------------------------------------------------------------------------------------

CORRECT, HALLUCINATED = [0.28, 0.30, 0.32], [0.08, 0.10, 0.12]


def calibrated(responses, mentions, **changes):
    params = PARAMS.model_copy(update=changes)
    return calibrate(responses, mentions, StubVerifier({}), params, no_image)


@pytest.fixture
def labelled(responses_of):
    """Responses that name one object each, half of them rightly."""
    responses = responses_of([f"a dog {n}" for n in range(6)])
    mentions = mention_table(responses, VOCABULARY).assign(score=[*CORRECT, *HALLUCINATED])
    return responses, mentions.assign(label=pd.Series(["correct"] * 3 + ["hallucinated"] * 3, dtype="str"))


def test_annotated_is_the_mean_and_spread_of_each_class(labelled):
    baseline = calibrated(*labelled, calibration="annotated").mentions
    assert baseline.mode == "annotated"
    for found, scores in ((baseline.correct, CORRECT), (baseline.hallucinated, HALLUCINATED)):
        assert found.mean == pytest.approx(np.mean(scores))
        assert found.std == pytest.approx(np.std(scores))
        assert found.n == 3
    assert baseline.mixing_weight == 0.5
    assert baseline.auroc == 1.0


def test_calibration_reads_its_own_split_only(labelled):
    responses, mentions = labelled
    other = mentions.assign(split="training", score=0.9, response_id="other")
    both = pd.concat([mentions, other], ignore_index=True)
    more = pd.concat([responses, responses.assign(split="training", text="x", response_id="other")], ignore_index=True)
    assert calibrated(more, both, calibration="annotated") == calibrated(responses, mentions, calibration="annotated")


def test_mentions_without_a_label_do_not_count_as_hallucinated(labelled):
    responses, mentions = labelled
    unknown = mentions.head(2).assign(label=pd.Series([None, None], dtype="str"), score=0.25)
    both = pd.concat([mentions, unknown], ignore_index=True)
    assert calibrated(responses, both, calibration="annotated").mentions.hallucinated.n == 3


def test_too_few_labels_name_what_to_change(labelled):
    responses, mentions = labelled
    with pytest.raises(CalibrationError, match=r"found 3 correct mentions and needs 10.*`mixture` or `fixed`"):
        calibrated(responses, mentions, calibration="annotated", min_mentions=10)


def test_a_verifier_that_is_wrong_way_round_is_refused(labelled):
    responses, mentions = labelled
    with pytest.raises(CalibrationError, match=r"no higher than hallucinated.*template"):
        calibrated(responses, mentions.assign(score=-mentions["score"]), calibration="annotated")


def test_no_object_in_any_calibration_response(responses_of):
    responses = responses_of(["nothing", "at all"])
    with pytest.raises(CalibrationError, match=r"none of the 2 calibration responses names an object.*'coco'"):
        calibrated(responses, scored(responses, StubVerifier({})), calibration="annotated")


def test_mixture_finds_the_classes_without_labels(responses_of):
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0.3, 0.02, 60), rng.normal(0.1, 0.02, 40)])
    responses = responses_of([f"a dog {n}" for n in range(100)])
    mentions = mention_table(responses, VOCABULARY).assign(score=scores, label=pd.Series([None] * 100, dtype="str"))
    found = calibrated(responses, mentions, calibration="mixture", min_mentions=20)
    assert found.mentions.mode == "mixture"
    assert found.mentions.correct.mean == pytest.approx(0.3, abs=0.01)
    assert found.mentions.hallucinated.mean == pytest.approx(0.1, abs=0.01)
    assert found.mentions.mixing_weight == pytest.approx(0.6, abs=0.02)
    assert found.sentence_auroc is None


def test_mixture_of_too_few(labelled):
    responses, mentions = labelled
    with pytest.raises(CalibrationError, match=r"`mixture` found 6 mentions and needs 30"):
        calibrated(responses, mentions, calibration="mixture", min_mentions=30)


class HabitVerifier(StubVerifier):
    """High scores, by picture, for what is in it; the noise of a word in a picture is always the same."""

    def __init__(self, scores, noise=0.03):
        super().__init__(scores)
        self.noise = noise

    def score(self, image_ids, texts, open_image, whole_responses=False):
        super().score(image_ids, texts, open_image)
        pairs = list(zip(image_ids, texts, strict=True))
        noise = [np.random.default_rng(sum(map(ord, image + text))).normal(0, self.noise) for image, text in pairs]
        seen = [("dog" in text) == (int(image[1:]) % 2 == 0) for image, text in pairs]
        return torch.tensor([0.3 * s + 0.1 * (not s) + n for s, n in zip(seen, noise, strict=True)])


@pytest.fixture
def agreeing(responses_of):
    """Twenty pictures, four samples each: three name what is there, in ten pictures one also what is not."""
    texts, images, prompts = [], [], []
    for picture in range(20):
        there, not_there = ("dog", "cat") if picture % 2 == 0 else ("cat", "dog")
        third = f"two big {there}s and a {not_there}" if picture >= 10 else f"a {there}"
        texts += [f"a {there}", f"a {there} here", third, "nothing"]
        images += [f"i{picture}"] * 4
        prompts += [f"p{picture}"] * 4
    return responses_of(texts, image_ids=images).assign(prompt_id=prompts)


def contrasted(responses, verifier=None, **changes):
    params = PARAMS.model_copy(update={"calibration": "contrast", **changes})
    verifier = verifier or HabitVerifier({})
    table = mention_table(responses, VOCABULARY, params.scored_modifiers)
    mentions = label_mentions(score_mentions(table, verifier, params, no_image), NO_TRUTH)
    return mentions, calibrate(responses, mentions, verifier, params, no_image)


def test_contrast_finds_the_classes_without_labels(agreeing, caplog):
    verifier = HabitVerifier({})
    with caplog.at_level(logging.INFO, logger="fisao_pipeline"):
        mentions, found = contrasted(agreeing, verifier, min_mentions=10)
    assert found.mentions.mode == "contrast"
    # One agreed word per picture, however many samples; of ten pictures nobody names the other word.
    assert (found.mentions.correct.n, found.mentions.hallucinated.n) == (20, 10)
    assert found.mentions.correct.mean == pytest.approx(0.3, abs=0.03)
    assert found.mentions.hallucinated.mean == pytest.approx(0.1, abs=0.03)
    assert found.mentions.mixing_weight == pytest.approx(60 / 70, abs=0.03)
    assert found.rests_on == len(mentions) == 70
    assert found.auroc_of == "components"
    assert "Baseline (contrast) of 70 mentions: correct" in caplog.text
    assert "(n=20)" in caplog.text
    assert "of the fitted components, not measured" in caplog.text
    assert not any(record.levelno >= logging.WARNING for record in caplog.records)


def test_contrast_reads_its_own_split_only(agreeing):
    # Of the other split, under the same pictures and prompts: each names what the calibration samples do not.
    neighbour = {name: np.roll(agreeing[name], 4) for name in ("image_id", "prompt_id")}
    other = agreeing.assign(split="training", response_id="t" + agreeing["response_id"], **neighbour)
    both = pd.concat([agreeing, other], ignore_index=True)
    assert contrasted(both, min_mentions=10)[1] == contrasted(agreeing, min_mentions=10)[1]


def test_contrast_refuses_one_sample_per_prompt_and_too_few_mentions(agreeing):
    with pytest.raises(CalibrationError, match=r"response_sampling\.responses_per_prompt"):
        contrasted(agreeing.iloc[::4])
    with pytest.raises(CalibrationError, match=r"`contrast` found 10 absent words and needs 15"):
        contrasted(agreeing, min_mentions=15)


def test_contrast_dresses_absent_words_as_the_phrases_are(responses_of):
    verifier = HabitVerifier({})
    # The last two pictures are named wrongly, or all mentions would fall to one component.
    named = ["dog" if (picture % 2 == 0) == (picture < 10) else "cat" for picture in range(12)]
    texts = [f"a big {name}" for name in named for _ in range(2)]
    images = [f"i{picture}" for picture in range(12) for _ in range(2)]
    contrasted(responses_of(texts, image_ids=images).assign(prompt_id=images), verifier, granularity="phrase")
    # Asked last, before the whole responses: one absent word for each picture.
    absent = verifier.asked[-36:-24]
    other = {"dog": "cat", "cat": "dog"}
    assert dict(absent) == {f"i{n}": f"a photo of a big {other[name]}" for n, name in enumerate(named)}


@pytest.mark.parametrize("calibration", ["mixture", "contrast"])
def test_a_verifier_that_hardly_tells_is_reported_without_labels_too(agreeing, caplog, calibration):
    verifier = HabitVerifier({}, noise=0.06)
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        contrasted(agreeing, verifier, calibration=calibration, min_mentions=10, min_auroc=1.0)
    assert "hardly tells" in caplog.text
    assert "of the fitted components, not measured" in caplog.text


def test_two_heaps_that_are_not_the_classes_are_told_by_labels(labelled, caplog):
    """The scores fall in two heaps, a thousand to one, but each heap holds as many correct as hallucinated ones."""
    responses, mentions = labelled
    heaps = mentions.iloc[[0, 0, 0, 0]].reset_index(drop=True)
    heaps = heaps.assign(score=[0.1, 0.101, 0.3, 0.301], label=["correct", "hallucinated"] * 2)
    with caplog.at_level(logging.INFO, logger="fisao_pipeline"):
        found = calibrated(responses, heaps, calibration="mixture")
    assert found.mentions.auroc > 0.99
    assert found.measured_auroc == 0.25
    assert "AUROC measured on what labels there are 0.250" in caplog.text
    assert "(AUROC 0.250 < reward_annotation.min_auroc 0.60, measured on labels)" in caplog.text
    unknown = heaps.assign(label=pd.Series([None] * 4, dtype="str"))
    assert calibrated(responses, unknown, calibration="mixture").measured_auroc is None


def test_a_baseline_says_what_it_rests_on(labelled, caplog):
    responses, mentions = labelled
    unknown = mentions.head(2).assign(label=pd.Series([None, None], dtype="str"), score=0.25)
    both = pd.concat([mentions, unknown], ignore_index=True)
    with caplog.at_level(logging.INFO, logger="fisao_pipeline"):
        found = calibrated(responses, both, calibration="annotated")
    assert (found.rests_on, found.auroc_of, found.overlap) == (6, "labels", 0.0)
    assert found.thresholds == pytest.approx((0.2, 0.2))
    assert "Baseline (annotated) of 6 mentions" in caplog.text
    assert "AUROC 1.000, overlap 0.000 (measured on labels)" in caplog.text
    assert "by the rule `midpoint` a mention costs below 0.200 and earns above 0.200" in caplog.text
    margin = calibrated(responses, both, calibration="annotated", rule="margin", margin=0.01)
    assert margin.thresholds == pytest.approx((0.09, 0.31))
    # Nothing is known of a baseline from parameters.
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="fisao_pipeline"):
        fixed = calibrated(responses, mentions)
    assert (fixed.rests_on, fixed.auroc_of, fixed.overlap) == (0, "nothing", None)
    assert fixed.thresholds == pytest.approx((0.2, 0.2))
    assert "AUROC and overlap were not measured" in caplog.text


def test_the_overlap_of_components_is_that_of_normals(agreeing):
    for calibration in ("mixture", "contrast"):
        _, found = contrasted(agreeing, calibration=calibration, min_mentions=10)
        expected = overlap_of_normals(found.mentions.gap, found.mentions.pooled_std)
        assert found.overlap == pytest.approx(expected), calibration
        assert found.rests_on == 70


def test_one_class_only_and_no_label_name_stage_and_setting(labelled):
    responses, mentions = labelled
    for label in ("correct", "hallucinated"):
        other = {"correct": "hallucinated", "hallucinated": "correct"}[label]
        with pytest.raises(CalibrationError, match=rf"reward_annotation.*found 0 {other} mentions.*min_mentions"):
            calibrated(responses, mentions.assign(label=label), calibration="annotated")
    none = mentions.assign(label=pd.Series([None] * 6, dtype="str"))
    with pytest.raises(CalibrationError, match=r"no labelled mention.*reward_annotation\.calibration"):
        calibrated(responses, none, calibration="annotated")


@pytest.mark.parametrize("calibration", ["annotated", "mixture", "contrast"])
def test_no_mention_names_stage_and_setting(responses_of, calibration):
    responses = responses_of(["nothing", "at all"]).assign(prompt_id="p")
    with pytest.raises(CalibrationError, match=r"reward_annotation: none of the 2 .*reward_annotation\.vocabulary"):
        calibrated(responses, scored(responses, StubVerifier({})), calibration=calibration)


# --- phrases -------------------------------------------------------------------------------------------------------


PHRASE = PARAMS.model_copy(update={"granularity": "phrase"})
PHRASE_TEXT = "There are two Red  Umbrellas, a bikes and an old dog."


@pytest.mark.parametrize(
    ("words", "expected"),
    [("category", ["two red umbrella", "bicycle", "old dog"]), ("written", ["two red umbrellas", "bikes", "old dog"])],
)
def test_the_verifier_scores_the_phrase(responses_of, words, expected):
    verifier, params = StubVerifier({}), PHRASE.model_copy(update={"score_words": words})
    table = mention_table(responses_of([PHRASE_TEXT]), VOCABULARY, params.scored_modifiers)
    assert table["modifiers"].tolist() == ["two Red", "", "old"]
    score_mentions(table, verifier, params, no_image)
    assert [text for _, text in verifier.asked] == [f"a photo of a {phrase}" for phrase in expected]


def test_only_phrases_are_described():
    assert [PARAMS.model_copy(update={"granularity": g}).scored_modifiers for g in ("token", "phrase", "sentence")] == [
        0,
        3,
        0,
    ]


def test_a_phrases_reward_falls_once_on_its_mentions_last_token(responses_of):
    texts = {"two red umbrella": 0.3, "old dog": 0.1, "dog": 0.9}
    verifier = StubVerifier({f"a photo of a {text}": score for text, score in texts.items()})
    responses = responses_of(["two red umbrellas and an old dog"])
    done = annotate(responses, verifier, VOCABULARY, NO_TRUTH, PHRASE, no_image)
    rewards = done.token_rewards.loc[0, "token_rewards"]
    last = (done.mentions["token_end"] - 1).tolist()
    assert [place for place, reward in enumerate(rewards) if reward] == last
    np.testing.assert_allclose([rewards[place] for place in last], [0.5, -0.5], atol=1e-6)
    assert done.mentions["text"].tolist() == ["umbrellas", "dog"], "spans, labels and repeats are the mentions'"


def test_fixed_needs_no_response_and_measures_nothing(responses_of):
    responses = responses_of(["nothing"])
    found = calibrated(responses, scored(responses, StubVerifier({})))
    assert found.mentions == Baseline("fixed", ClassScores(0.3, 0.05, 0), ClassScores(0.1, 0.05, 0), 0.5, None)
    assert (found.sentence_mean, found.sentence_std) == (0.2, 0.1)
    assert found.sentence_auroc is None


def test_a_fixed_baseline_the_wrong_way_round_is_refused(responses_of):
    responses = responses_of(["nothing"])
    wrong = FIXED.model_copy(update={"correct_mean": 0.0})
    with pytest.raises(CalibrationError, match="no higher than"):
        calibrated(responses, scored(responses, StubVerifier({})), fixed_baseline=wrong)


def test_a_verifier_that_hardly_tells_is_reported(labelled, caplog):
    responses, mentions = labelled
    mixed = mentions.assign(score=[0.1, 0.2, 0.31, 0.1, 0.2, 0.3])
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        calibrated(responses, mixed, calibration="annotated")
    assert "hardly tells" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        calibrated(responses, mentions, calibration="annotated")
    assert not caplog.text


def test_sentences_that_are_cut_are_counted(responses_of):
    responses = responses_of(["a dog", "one two three four five six seven eight nine", "a dog"])
    scores, cut = sentence_scores(responses, StubVerifier({"a dog": 0.4}), no_image)
    np.testing.assert_allclose(scores, [0.4, 0.2, 0.4], rtol=1e-6)
    assert cut == 0.5


def test_sentence_numbers_are_of_whole_calibration_responses(labelled):
    responses, mentions = labelled
    texts = dict(zip(responses["text"], [0.4, 0.5, 0.6, 0.1, 0.2, 0.3], strict=True))
    params = PARAMS.model_copy(update={"calibration": "annotated"})
    found = calibrate(responses, mentions, StubVerifier(texts), params, no_image)
    assert found.sentence_mean == pytest.approx(0.35)
    assert found.sentence_std == pytest.approx(np.std(list(texts.values())), rel=1e-5)
    assert found.sentence_auroc == 1.0


def test_the_scores_of_whole_responses_are_those_of_the_calibration(labelled):
    responses, mentions = labelled
    texts = dict(zip(responses["text"], [0.4, 0.5, 0.6, 0.1, 0.2, 0.3], strict=True))
    more = pd.concat([responses, responses.assign(split="training", response_id="other")], ignore_index=True)
    table = response_score_table(more, mentions, StubVerifier(texts), no_image)
    assert table["response_id"].tolist() == responses["response_id"].tolist()
    assert set(table["split"]) == {"calibration"}
    np.testing.assert_allclose(table["sentence_score"], list(texts.values()), rtol=1e-6)
    assert table["label"].tolist() == ["clean"] * 3 + ["hallucinating"] * 3


def test_one_hallucination_makes_a_response_hallucinating_and_none_labelled_leaves_it_open():
    mentions = pd.DataFrame(
        {"response_id": ["a", "a", "b", "c"], "label": ["correct", "hallucinated", "correct", None]}
    ).astype({"label": "str"})
    labels = response_labels(pd.DataFrame({"response_id": list("abcd")}), mentions)
    assert [None if pd.isna(label) else label for label in labels] == ["hallucinating", "clean", None, None]


def test_a_baseline_survives_json(labelled):
    baseline = calibrated(*labelled, calibration="annotated")
    assert VerifierBaseline.from_dict(json.loads(json.dumps(baseline.to_dict()))) == baseline


def test_a_baseline_says_which_settings_it_was_made_with(labelled, responses_of):
    params = PARAMS.model_copy(update={"calibration": "annotated"})
    for baseline, made_with in (
        (calibrated(*labelled, calibration="annotated"), params),
        (calibrated(*labelled), PARAMS),
    ):
        assert json.loads(json.dumps(baseline.to_dict()))["settings"] == made_with.model_dump(mode="json")


def test_a_baseline_of_an_older_version_names_the_command(labelled):
    stored = calibrated(*labelled).to_dict()
    for missing in ("settings", "thresholds", "rests_on", "own_encoder"):
        older = {name: value for name, value in stored.items() if name != missing}
        with pytest.raises(ValueError, match=f"does not say its {missing}.*kedro run --pipelines=reward_annotation"):
            VerifierBaseline.from_dict({**older, "template": "a photo of a {}"})


def test_the_settings_are_a_block_again(labelled):
    baseline = VerifierBaseline.from_dict(json.loads(json.dumps(calibrated(*labelled).to_dict())))
    assert baseline.params == PARAMS
    with pytest.raises(
        ValueError, match=r"not those of this version: re-run `kedro run --pipelines=reward_annotation`"
    ):
        _ = replace(baseline, settings={**baseline.settings, "gone": 1}).params


def test_the_whole_stage_on_real_models(world, responses_of):
    """Real verifier, real pictures; the tables belong together."""
    verifier = world.verifier()
    texts = ["There is a dog and a traffic light on a street.", "A photo of a cat.", "Nothing.", "two dogs"]
    responses = responses_of(texts, image_ids=["i00", "i01", "i02", "i03"])
    done = annotate(responses, verifier, VOCABULARY, NO_TRUTH, PARAMS, world.open_image, "sha256:0")
    assert done.token_rewards["response_id"].tolist() == responses["response_id"].tolist()
    lengths = responses["token_ids"].str.len().tolist()
    assert [len(row) for row in done.token_rewards["token_rewards"]] == lengths
    nonzero = [sum(r != 0 for r in row) for row in done.token_rewards["token_rewards"]]
    assert nonzero == [2, 1, 0, 1]
    assert done.mentions["score"].between(-1, 1).all()
    whole = verifier.score(responses["image_id"].tolist(), responses["text"].tolist(), world.open_image)
    np.testing.assert_allclose(done.response_scores["sentence_score"], whole, rtol=1e-6)
    expected = verifier.score(["i01"], ["a photo of a cat"], world.open_image)
    assert done.mentions.loc[2, "score"] == pytest.approx(float(expected))
    assert (done.baseline.verifier, done.baseline.vocabulary_digest) == ("sha256:0", None)


# --- the bound: labels pay ------------------------------------------------------------------------------------------


def test_labels_pay_what_a_verifier_that_never_errs_would(responses_of):
    params = PARAMS.model_copy(update={"paid_by": "annotations"})
    responses = responses_of(["A dog, a kite, a dog and a cat."], split="training")
    truth = GroundTruth({"i0": {"dog"}}, frozenset({"dog", "kite"}))
    # The scores would pay the opposite, and the cat is in no annotation.
    verifier = StubVerifier({"a photo of a dog": 0.0, "a photo of a kite": 0.9, "a photo of a cat": 0.9})
    done = annotate(responses, verifier, VOCABULARY, truth, params, no_image)
    paid = [reward for reward in done.token_rewards["token_rewards"][0] if reward]
    assert paid == [1.0, -params.false_mention_cost, -params.repeat_penalty]


def test_labels_cannot_pay_where_there_are_none(responses_of):
    params = PARAMS.model_copy(update={"paid_by": "annotations"})
    responses = responses_of(["A dog and a kite."], split="training")
    with pytest.raises(ValueError, match=r"reward_annotation\.paid_by to `verifier`"):
        annotate(responses, StubVerifier({}), VOCABULARY, NO_TRUTH, params, no_image)


def test_a_response_of_zero_tokens_earns_nothing(responses_of):
    responses = responses_of(["a dog", ""])
    responses.at[1, "token_ids"] = []
    params = PARAMS.model_copy(update={"granularity": "sentence", "calibration": "fixed", "fixed_baseline": FIXED})
    done = annotate(responses, StubVerifier({"a dog": 0.7}), VOCABULARY, NO_TRUTH, params, no_image)
    assert done.token_rewards["token_rewards"].str.len().tolist() == [len(responses["token_ids"][0]), 0]


def test_training_responses_without_a_mention_are_reported(responses_of, caplog):
    params = PARAMS.model_copy(update={"calibration": "fixed", "fixed_baseline": FIXED})
    for text, split, granularity, said in (
        ("a dog", "training", "token", False),
        ("a view", "calibration", "token", False),
        ("a view", "training", "sentence", False),
        ("a view", "training", "token", True),
    ):
        caplog.clear()
        block = params.model_copy(update={"granularity": granularity})
        texts = {"a photo of a dog": 0.7, text: 0.1}
        annotate(responses_of([text], split=split), StubVerifier(texts), VOCABULARY, NO_TRUTH, block, no_image)
        assert ("reward_annotation: none of the 1 training responses names an object" in caplog.text) == said
