"""The fast path stays fast: what it computes is counted exactly, and a few ratios keep their order of magnitude.

The counts are of the pocket models' shapes. A change that makes one smaller is welcome: lower it here.
"""

import json

import pandas as pd
import pytest
import torch
from tests.bench import plain
from tests.bench.counting import counted
from tests.bench.side_by_side import CPU_SECONDS
from tests.bench.stored import least_ratio, most_ratio
from tests.bench.worlds import annotator, forget_pictures, training_params, written_responses
from tests.pocket_models import favour

from fisao_pipeline.models import decoding
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.training.ppo import ppo_round, score_rollouts
from fisao_pipeline.training.rollouts import build_rollouts
from fisao_pipeline.training.sampling import sample_responses

PICTURES, COMPLETIONS, TOKENS, MICRO_BATCH = 4, 4, 10, 8
PARAMS = training_params(batch_size=16, micro_batch_size=MICRO_BATCH, epochs=1).ppo


@pytest.fixture
def policy(world):
    """Never ends a sentence, so that the work is known."""
    policy = world.policy()
    return favour(policy, policy.tokenizer.eos_token_id, -1e4)


@pytest.fixture
def prompts(world):
    """As long as each other."""
    return world.prompts.head(PICTURES).assign(prompt="Describe the picture.")


def sample(world, policy, prompts):
    args = (policy, prompts, world.open_image, Decoding(1.0, TOKENS), COMPLETIONS)
    return sample_responses(*args, batch_size=PICTURES * COMPLETIONS, seed=0)


def rollouts_of(policy, responses, prompts):
    paid = responses["token_ids"].map(lambda row: [float(token % 2) for token in row])
    rewards = pd.DataFrame({"response_id": responses["response_id"], "token_rewards": paid})
    return build_rollouts(responses, prompts, rewards, policy.device)


def test_sampling_reads_each_prompt_and_each_picture_once(world, policy, prompts):
    width = policy.encode(prompts["prompt"].tolist(), prompts["image_id"].tolist(), world.open_image).input_ids.shape[1]
    forget_pictures(policy)
    with counted(policy) as done:
        sample(world, policy, prompts)
    assert done["language passes"] == TOKENS, "the prompts, then all tokens but the last"
    assert done["positions"] == PICTURES * width + PICTURES * COMPLETIONS * (TOKENS - 1)
    assert (done["vision passes"], done["pictures seen"]) == (1, PICTURES)
    assert done["bytes kept"] == 0
    with counted(policy) as again:
        sample(world, policy, prompts)
    assert again["pictures seen"] == 0


def test_responses_that_have_ended_are_computed_no_further(world, policy, prompts, monkeypatch):
    draw, calls = decoding._draw, []

    def half_end_at_the_third(logits, *args):
        tokens, logprobs = draw(logits, *args)
        calls.append(len(tokens))
        if len(calls) == 3:
            tokens[: len(tokens) // 2] = policy.tokenizer.eos_token_id
        return tokens, logprobs

    monkeypatch.setattr(decoding, "_draw", half_end_at_the_third)
    sample(world, policy, prompts)
    rows = PICTURES * COMPLETIONS
    assert calls == [rows] * 3 + [rows // 2] * (TOKENS - 3)


def test_annotation_sees_a_picture_and_a_text_once(world):
    verifier = world.verifier()
    annotate = annotator(world, verifier, world.open_image)
    responses = written_responses(world, world.policy(lora=None).tokenizer, COMPLETIONS)
    with counted(verifier=verifier) as done:
        mentions, _ = annotate(responses)
    assert done["pictures scored"] == mentions["image_id"].nunique() == len(world.images)
    assert done["texts embedded"] == mentions["category"].nunique()
    assert done["verifier's vision passes"] == 1
    assert done["text passes"] == done["texts embedded"], "alone, so that a text's bits do not hang on the others"
    with counted(verifier=verifier) as again:
        annotate(responses)
    assert not again["pictures scored"] and not again["texts embedded"]


def test_an_update_reads_each_prompt_once_a_pass(world, policy, prompts):
    rollouts = rollouts_of(policy, sample(world, policy, prompts), prompts)
    policy.add_value_head(PARAMS.value_width)
    width = policy.encode(prompts["prompt"].tolist(), prompts["image_id"].tolist(), world.open_image).input_ids.shape[1]
    packed = PICTURES * (width + COMPLETIONS * TOKENS)
    parts = PICTURES * COMPLETIONS // MICRO_BATCH
    args = (world.open_image, 1.0, PARAMS)
    with counted(policy) as scoring:
        scored = score_rollouts(policy, rollouts, *args, kl_coef=0.05)
    assert scoring["language passes"] == 2 * parts, "the policy and the reference"
    assert scoring["positions"] == 2 * packed
    assert scoring["bytes kept"] == 0
    optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=0.0)
    with counted(policy) as steps:
        ppo_round(policy, optimizer, scored, *args, seed=0)
    assert steps["language passes"] == parts
    assert steps["positions"] == packed
    assert scoring["pictures seen"] == steps["pictures seen"] == 0
    assert {"scoring": scoring["flops"], "steps": steps["flops"], "bytes kept": steps["bytes kept"]} == {
        "scoring": 945_470_464,
        "steps": 967_070_720,
        "bytes kept": 11_382_304,
    }


def best_of_three(run) -> float:
    times = []
    for _ in range(3):
        started = CPU_SECONDS()
        run()
        times.append(CPU_SECONDS() - started)
    return min(times)


# Ratios are by CPU time, of little work and on whatever machine. The numbers are medians of single benchmarks of
# 2026-11-28, which count only while there is no docs/bench.json.
def test_sampling_is_faster_than_generate(world, policy, prompts):
    rows = prompts.loc[prompts.index.repeat(COMPLETIONS)]
    ours = best_of_three(lambda: sample(world, policy, prompts))
    theirs = best_of_three(lambda: plain.generate(policy, world, rows, TOKENS, at_once=1))
    assert theirs / ours > least_ratio("sampling, K = 4", "`generate`, one call a sample", otherwise=19.2)


def test_packed_scoring_is_faster_than_whole_passes(world, policy, prompts):
    rollouts = rollouts_of(policy, sample(world, policy, prompts), prompts)
    every = list(range(len(rollouts)))

    def packed() -> None:
        texts, image_ids, prompt_of_row = rollouts.unique_prompts()
        batch = policy.encode(texts, image_ids, world.open_image)
        args = (batch, rollouts.completion_ids, rollouts.completion_mask, 1.0)
        policy.score(*args, prompt_of_row=prompt_of_row)[0].sum().backward()

    whole = best_of_three(lambda: plain.token_logprobs(policy, world, rollouts, every).sum().backward())
    row = ("logprobs under policy and reference, K = 8", "whole forward passes, a row a response")
    assert whole / best_of_three(packed) > least_ratio(*row, otherwise=3.63)


def test_plain_and_packed_logprobs_are_the_same(world, policy, prompts):
    rollouts = rollouts_of(policy, sample(world, policy, prompts), prompts)
    with torch.no_grad():
        whole = plain.token_logprobs(policy, world, rollouts, range(len(rollouts)))
        texts, image_ids, prompt_of_row = rollouts.unique_prompts()
        batch = policy.encode(texts, image_ids, world.open_image)
        args = (batch, rollouts.completion_ids, rollouts.completion_mask, 1.0)
        packed, _ = policy.score(*args, prompt_of_row=prompt_of_row)
    torch.testing.assert_close(packed, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(rollouts.sampled_logprobs, whole, rtol=0, atol=1e-5)


def test_annotation_is_faster_than_a_pass_a_token_and_near_the_image_tower(world):
    verifier = world.verifier()
    annotate = annotator(world, verifier, world.open_image)
    tokenizer = world.policy(lora=None).tokenizer
    responses = written_responses(world, tokenizer, COMPLETIONS)
    few = responses.head(2)
    images = [world.open_image(image_id) for image_id in world.images]
    pixels = verifier.processor(images=images, return_tensors="pt")["pixel_values"]

    def ours() -> None:
        verifier._images.clear()
        annotate(responses)

    @torch.no_grad()
    def image_tower() -> None:
        for part in pixels.split(verifier.batch_size):
            verifier.model.get_image_features(pixel_values=part)

    title, seconds = "annotation, pocket CLIP", best_of_three(ours)
    whole = best_of_three(lambda: plain.score_each_token(verifier, world.open_image, few, tokenizer))
    least = least_ratio(title, "one forward pass of CLIP a token", otherwise=181)
    assert whole / len(few) / (seconds / len(responses)) > least
    most = most_ratio(title, "the image tower alone, pixels ready", otherwise=4.35)
    assert seconds / best_of_three(image_tower) < most


ROWS = [
    {"title": "work", "against": "plain", "median": 12.0},
    {"title": "work", "against": "slow", "median": 1.5},
    {"title": "work", "against": "TRL", "missing": "it is not there"},
]


def test_the_stored_medians_are_the_limits(tmp_path):
    file = tmp_path / "bench.json"
    assert least_ratio("work", "plain", 9.0, file) == 3.0, "while there is no file"
    assert most_ratio("work", "plain", 9.0, file) == 27.0
    file.write_text(json.dumps({"rows": ROWS}))
    assert least_ratio("work", "plain", 9.0, file) == 4.0
    assert most_ratio("work", "plain", 9.0, file) == 36.0
    assert least_ratio("work", "slow", 9.0, file) == 1.0, "never slower than the plain way"


def test_a_row_that_is_not_there_any_more_is_no_limit_of_another(tmp_path):
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"rows": ROWS}))
    with pytest.raises(KeyError, match=r"no row 'works' against 'plain': `make bench`.*'work' against 'plain'"):
        least_ratio("works", "plain", 9.0, file)
    with pytest.raises(KeyError, match=r"was not measured \(it is not there\)"):
        most_ratio("work", "TRL", 9.0, file)
