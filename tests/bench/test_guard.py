"""The fast path stays fast: what it computes is counted exactly, and a few ratios stay near what they were.

The counts are of the pocket models' shapes. A change that makes one smaller is welcome: lower it here.
"""

import json

import pytest
import torch
from tests.bench import plain
from tests.bench.counting import counted
from tests.bench.guarded import (
    COMPLETIONS,
    GUARDED,
    PICTURES,
    TOKENS,
    equal_prompts,
    rollouts_of,
    sample,
    unending,
)
from tests.bench.memory import peak_tensor_bytes
from tests.bench.stored import limit
from tests.bench.test_growth import Stages
from tests.bench.worlds import annotator, forget_pictures, shipped_block, training_params, written_responses
from tests.pocket_models import favour

from fisao_pipeline.models import decoding
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.training.annotation import GroundTruth
from fisao_pipeline.training.loop import PolicyTrainer
from fisao_pipeline.training.ppo import ppo_round, score_rollouts

MICRO_BATCH = 8
PARAMS = training_params(batch_size=16, micro_batch_size=MICRO_BATCH, epochs=1).ppo


@pytest.fixture
def policy(world):
    return unending(world)


@pytest.fixture
def prompts(world):
    return equal_prompts(world)


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
        "steps": 947_573_760,
        "bytes kept": 11_686_960,
    }


def test_whole_rounds_compute_nothing_twice(world, prompts):
    """Round 0 on what the stages before drew and paid, round 1 on its own; no probe."""
    block = {**shipped_block("response_sampling"), "max_new_tokens": TOKENS, "responses_per_prompt": COMPLETIONS}
    sampling = ResponseSamplingParams.model_validate({**block, "prompts_per_round": PICTURES, "temperature": 1.0})
    params = training_params(batch_size=16, micro_batch_size=MICRO_BATCH, epochs=2)
    policy, verifier = world.policy(params.lora), world.verifier()
    favour(policy, policy.tokenizer.eos_token_id, -1e4)
    prompts = prompts.assign(split="training")
    reward = annotator(world, verifier, world.open_image)
    first = sample(world, policy, prompts)
    _, paid = reward(first)
    trainer = PolicyTrainer(policy, reward, prompts, sampling, params, GroundTruth({}, frozenset()), lambda *_: None)
    width = policy.encode(prompts["prompt"].tolist(), prompts["image_id"].tolist(), world.open_image).input_ids.shape[1]
    packed = PICTURES * (width + COMPLETIONS * TOKENS)
    # Policy and reference before the steps, and each epoch.
    parts = PICTURES * COMPLETIONS // MICRO_BATCH
    learning = {"language passes": (2 + 2) * parts, "positions": (2 + 2) * packed}
    drawn = {
        "language passes": TOKENS,
        "positions": PICTURES * width + PICTURES * COMPLETIONS * (TOKENS - 1),
    }
    for index, sampled in enumerate(({"language passes": 0, "positions": 0}, drawn)):
        with counted(policy, verifier) as done:
            trainer.round(index, first, paid)
        assert {name: done[name] for name in learning} == {name: learning[name] + sampled[name] for name in learning}
        assert not done["pictures seen"] and not done["pictures scored"], "seen by the stages before"


def test_twice_the_pictures_take_no_more_memory(world):
    """As many at once as a batch holds; what tensors take at most is the same in every run."""
    peaks = []
    for pictures in (8, 16):
        stages = Stages(world.models, pictures, completions=4, tokens=8)
        found = {"sampling": peak_tensor_bytes(stages.sampling)}
        stages.annotation()
        found["update"] = peak_tensor_bytes(stages.update)
        # Of an untrained model's responses few name anything.
        stages.responses = written_responses(stages.world, stages.policy.tokenizer, stages.completions)
        found["annotation"] = peak_tensor_bytes(stages.annotation)
        peaks.append(found)
    few, many = peaks
    assert {name: round(many[name] / few[name], 1) for name in few} == dict.fromkeys(few, 1.0), peaks


@pytest.mark.parametrize("make", GUARDED, ids=lambda make: make.__name__)
def test_a_ratio_is_not_far_from_the_stored_one(world, make):
    pair = make(world)
    bound = limit(pair.title, pair.against, pair.is_floor)
    ratio, ours, theirs = pair.measure()
    assert ratio <= bound if pair.is_floor else ratio >= bound, f"{ours * 1e3:.1f} ms against {theirs * 1e3:.1f} ms"


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


ROWS = [
    {"title": "work", "against": "plain", "median": 12.0},
    {"title": "work", "against": "slow", "median": 1.5},
    {"title": "work", "against": "TRL", "missing": "it is not there"},
]


def test_the_stored_medians_are_the_limits(tmp_path):
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"rows": ROWS}))
    assert limit("work", "plain", False, file) == 6.0
    assert limit("work", "plain", True, file) == 24.0
    assert limit("work", "slow", False, file) == 1.0, "never slower than the plain way"


def test_a_row_that_is_not_there_any_more_is_no_limit_of_another(tmp_path):
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"rows": ROWS}))
    with pytest.raises(KeyError, match=r"no row 'works' against 'plain': `make bench`.*'work' against 'plain'"):
        limit("works", "plain", False, file)
    with pytest.raises(KeyError, match=r"was not measured \(it is not there\)"):
        limit("work", "TRL", True, file)
