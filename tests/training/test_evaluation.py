"""Answers of both models to held-out prompts."""

import pandas as pd
import pytest
from tests.pocket_models import favour, stir

from fisao_pipeline.benchmarks.pope import PopeQuestion
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.training import evaluation
from fisao_pipeline.training.evaluation import (
    ANSWER_TOKENS,
    QUESTION_COLUMNS,
    answer_prompts,
    caption_questions,
    yes_no_questions,
)

PARAMS = BenchmarkEvaluationParams(
    held_out_images=3,
    max_new_tokens=10,
    temperature=1.0,
    samples_per_prompt=2,
    pope_images=2,
    vocabulary="coco",
    batch_size=8,
    bootstrap_resamples=100,
    confidence=0.95,
    seed=0,
)


def held_out(world, images: int) -> pd.DataFrame:
    return world.prompts[world.prompts["split"] == "held_out"].head(images)


@pytest.fixture(scope="module")
def questions(world) -> pd.DataFrame:
    captions = caption_questions(held_out(world, 3))
    held_out_ids = captions["image_id"].tolist()
    asked = [
        PopeQuestion(held_out_ids[0], "random", "dog", "Is there a dog in the image?", "no"),
        PopeQuestion(held_out_ids[1], "random", "cat", "Is there a cat in the image?", "yes"),
    ]
    strategies = {"random": asked, "popular": asked[:1], "adversarial": asked}
    return pd.concat([captions, yes_no_questions(strategies)], ignore_index=True)


@pytest.fixture(scope="module")
def asked_of_sampler():
    return []


@pytest.fixture(scope="module")
def predictions(world, questions, asked_of_sampler) -> pd.DataFrame:
    real = evaluation.sample_responses

    def sample(policy, prompts, *rest, **options):
        asked_of_sampler.append((options["description"], prompts["prompt_id"].tolist()))
        return real(policy, prompts, *rest, **options)

    evaluation.sample_responses = sample
    try:
        return answer_prompts(stir(world.policy(), scale=0.5), questions, world.open_image, PARAMS)
    finally:
        evaluation.sample_responses = real


def test_questions_of_both_tasks_are_one_table(world, questions):
    assert list(questions) == QUESTION_COLUMNS
    captions, pope = questions[questions["task"] == "caption"], questions[questions["task"] == "pope"]
    assert (
        captions[["prompt_id", "prompt"]].values.tolist() == held_out(world, 3)[["prompt_id", "prompt"]].values.tolist()
    )
    assert captions["answer"].isna().all()
    assert pope["answer"].tolist() == ["no", "yes", "no", "no", "yes"]
    assert pope["prompt_id"].nunique() == 2
    assert set(questions["split"]) == {"held_out"}


def test_every_question_has_its_answers(predictions, questions):
    counts = predictions.groupby(["model", "decoding", "task"]).size().to_dict()
    for model in ("base", "aligned"):
        assert counts[model, "greedy", "caption"] == 3
        assert counts[model, "sampled", "caption"] == 3 * PARAMS.samples_per_prompt
        assert counts[model, "greedy", "pope"] == counts[model, "sampled", "pope"] == 5
    assert predictions["response"].notna().all()
    assert (predictions.loc[predictions["task"] == "pope", "n_tokens"] <= ANSWER_TOKENS).all()
    assert (predictions.loc[predictions["task"] == "caption", "n_tokens"] <= PARAMS.max_new_tokens).all()


def test_the_base_answers_are_those_of_a_policy_without_adapter(world, questions, predictions):
    bare = answer_prompts(world.policy(lora=None), questions, world.open_image, PARAMS)
    theirs = bare[bare["model"] == "base"].reset_index(drop=True)
    ours = predictions[predictions["model"] == "base"].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, theirs)
    aligned = predictions[predictions["model"] == "aligned"].reset_index(drop=True)
    assert (aligned["response"] != ours["response"]).any()


def test_a_question_of_several_strategies_is_answered_once(predictions, asked_of_sampler):
    pope = [ids for description, ids in asked_of_sampler if description.endswith("pope")]
    assert len(pope) == 4
    assert all(len(ids) == len(set(ids)) == 2 for ids in pope)
    rows = predictions[predictions["task"] == "pope"]
    answers = rows.groupby(["model", "decoding", "prompt_id"])["response"].nunique()
    assert (answers == 1).all()
    assert set(rows["pope_strategy"]) == {"random", "popular", "adversarial"}


def test_without_yes_no_questions(world):
    questions = pd.concat([caption_questions(held_out(world, 2)), yes_no_questions({})], ignore_index=True)
    table = answer_prompts(world.policy(), questions, world.open_image, PARAMS)
    assert set(table["task"]) == {"caption"}
    assert len(table) == 2 * (2 + 2 * PARAMS.samples_per_prompt)


def test_an_untrained_adapter_answers_as_the_base(world, questions):
    table = answer_prompts(world.policy(), questions, world.open_image, PARAMS)
    base, aligned = (
        table[table["model"] == m].drop(columns="model").reset_index(drop=True) for m in ("base", "aligned")
    )
    pd.testing.assert_frame_equal(base, aligned)


def test_the_least_likely_token_is_what_the_base_model_thinks_of_it(world, predictions):
    """Of the base model's own samples it is the lowest of the logprobs they were drawn with; greedily likewise."""
    captions = predictions[predictions["task"] == "caption"]
    assert predictions.loc[predictions["task"] == "pope", "lowest_base_logprob"].isna().all()
    assert (captions["lowest_base_logprob"] < 0).all()
    asked = caption_questions(held_out(world, 3))
    policy = world.policy()
    drawn = evaluation.sample_responses(
        policy,
        asked,
        world.open_image,
        evaluation.Decoding(PARAMS.temperature, PARAMS.max_new_tokens),
        PARAMS.samples_per_prompt,
        PARAMS.batch_size,
        PARAMS.seed,
    )
    lowest = [min(row) for row in drawn["logprobs"]]
    own = captions[(captions["model"] == "base") & (captions["decoding"] == "sampled")]
    assert own["response"].tolist() == drawn["text"].tolist()
    assert own["lowest_base_logprob"].tolist() == pytest.approx(lowest, abs=1e-4)


def test_the_aligned_models_words_are_judged_by_the_base_model(world):
    """An adapter that says something else: its own logprobs are not what counts."""
    policy = stir(world.policy(), scale=0.5)
    asked = caption_questions(held_out(world, 3))
    args = (world.open_image, evaluation.Decoding(1.0, 10), 2, 8, 0)
    responses = evaluation.sample_responses(policy, asked, *args)
    found = evaluation.lowest_base_logprobs(policy, responses, asked, world.open_image, batch_size=4)
    plain = evaluation.lowest_base_logprobs(world.policy(), responses, asked, world.open_image, batch_size=6)
    assert found == pytest.approx(plain, abs=1e-4)
    assert found != pytest.approx([min(row) for row in responses["logprobs"]], abs=1e-3)


# --- decodings and the order of prompts ---------------------------------------------------------------------------


def greedy(world, questions, **options):
    params = PARAMS.model_copy(update={"decodings": ("greedy", "beam"), "num_beams": 3, **options.pop("params", {})})
    return answer_prompts(stir(world.policy(), scale=0.5), questions, world.open_image, params, ("aligned",), **options)


def test_greedy_and_beam_answers_do_not_depend_on_the_batch(world):
    """Prompts of different lengths: by one, together, in order of their tokens or of their characters."""
    asked = caption_questions(world.prompts.head(8).assign(split="held_out"))
    sizes = dict.fromkeys(world.manifest["image_id"], (48, 48))
    answers = [
        greedy(world, asked, params={"batch_size": size}, image_sizes=given)
        for size, given in ((1, None), (5, None), (5, sizes), (64, sizes))
    ]
    columns = ["prompt_id", "response", "n_tokens", "finish_reason", "decoding"]
    for other in answers[1:]:
        pd.testing.assert_frame_equal(other[columns], answers[0][columns])
    assert answers[0]["prompt_id"].tolist() == asked["prompt_id"].tolist() * 2, "the order is that of the questions"
    assert set(answers[0]["decoding"]) == {"greedy", "beam"}


def test_the_longest_prompts_are_asked_first_by_tokens_with_those_of_the_image(world, monkeypatch):
    asked = caption_questions(world.prompts.head(6).assign(split="held_out"))
    policy, seen = world.policy(), []
    real = policy.encode.__call__

    def encode(prompts, image_ids, open_image):
        seen.append(list(image_ids))
        return real(prompts, image_ids, open_image)

    lengths = dict(zip(asked["image_id"], (30, 90, 60, 90, 10, 70), strict=True))
    encode.count_tokens = lambda prompts, sizes: [size[0] for size in sizes]
    monkeypatch.setattr(policy, "encode", encode)
    sizes = {image_id: (length, 1) for image_id, length in lengths.items()}
    params = PARAMS.model_copy(update={"decodings": ("greedy",), "batch_size": 2})
    table = answer_prompts(policy, asked, world.open_image, params, ("base",), image_sizes=sizes)
    ids = asked["image_id"].tolist()
    assert seen[:3] == [[ids[1], ids[3]], [ids[5], ids[2]], [ids[0], ids[4]]]
    assert table["image_id"].tolist() == ids


def test_why_an_answer_ended_is_told(world):
    asked = caption_questions(held_out(world, 2))
    policy = favour(world.policy(), world.policy().tokenizer.eos_token_id, 50.0)
    params = PARAMS.model_copy(update={"decodings": ("greedy",)})
    ended = answer_prompts(policy, asked, world.open_image, params, ("base",))
    assert set(ended["finish_reason"]) == {"stop"}
    cut = answer_prompts(world.policy(), asked, world.open_image, params, ("base",))
    assert set(cut["finish_reason"]) == {"length"}
