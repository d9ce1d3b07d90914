"""Prompts that leave room for an answer, and those that do not."""

import pytest

from fisao_pipeline.models.prompts import PromptEncoder
from fisao_pipeline.training.context import prompts_that_fit

LONG = "umbrella " * 200


@pytest.fixture(scope="module")
def policy(world):
    return world.policy(lora=None)


@pytest.fixture
def prompts(world):
    """The third prompt of the world and the last are too long for a context of 192."""
    table = world.prompts.copy()
    table.loc[[2, len(table) - 1], "prompt"] = LONG
    return table


def test_what_is_too_long_is_named_with_its_reason_and_the_rest_stays_as_it_was(world, policy, prompts):
    fitting, reasons = prompts_that_fit(policy, prompts, world.manifest, 48, "response_sampling")
    gone = [prompts["prompt_id"].iloc[2], prompts["prompt_id"].iloc[-1]]
    assert list(reasons) == gone
    assert fitting.to_dict("list") == prompts[~prompts["prompt_id"].isin(gone)].to_dict("list")
    count = policy.encode.count_tokens([LONG], [(96, 96)])[0]
    assert reasons[gone[0]].startswith(f"prompt too long: {count} tokens")
    assert "48 of the answer" in reasons[gone[0]] and "context of 192" in reasons[gone[0]]


def test_the_answer_and_the_image_count_to_the_last_token(world, policy):
    prompts = world.prompts.head(1)
    taken = policy.encode(prompts["prompt"].tolist(), prompts["image_id"].tolist(), world.open_image).input_ids.shape[1]
    _, none = prompts_that_fit(policy, prompts, world.manifest, 192 - taken, "response_sampling")
    _, one = prompts_that_fit(policy, prompts, world.manifest, 192 - taken + 1, "response_sampling")
    assert (len(none), len(one)) == (0, 1)


def test_what_fits_to_the_last_token_can_be_answered_and_scored(world, policy):
    """The model itself takes it: no position lies beyond its context."""
    from fisao_pipeline.models.decoding import Decoding

    prompts = world.prompts.head(1)
    batch = policy.encode(prompts["prompt"].tolist(), prompts["image_id"].tolist(), world.open_image)
    drawn = policy.sample(batch, Decoding(1.0, 192 - batch.input_ids.shape[1]))
    logprobs, _ = policy.score(batch, drawn.ids, drawn.mask, 1.0)
    assert logprobs[drawn.mask].isfinite().all()


def test_a_needed_split_without_any_prompt_that_fits_is_an_error_that_says_what_to_change(world, policy, prompts):
    all_long = prompts.assign(prompt=prompts["prompt"].where(prompts["split"] != "training", LONG))
    message = (
        r"response_sampling: no prompt of the split 'training' leaves room.*context is 192 tokens, the shortest prompt "
        r"takes \d+.*Lower response_sampling\.max_new_tokens.*raw_prompts.*policy_backbone"
    )
    with pytest.raises(ValueError, match=message):
        prompts_that_fit(policy, all_long, world.manifest, 48, "response_sampling", ("calibration", "training"))
    fitting, reasons = prompts_that_fit(policy, all_long, world.manifest, 48, "response_sampling", ("calibration",))
    assert set(reasons) >= set(all_long.loc[all_long["split"] == "training", "prompt_id"])
    assert "training" not in set(fitting["split"])


def test_a_needed_split_that_has_no_prompt_at_all_is_somebody_elses_error(world, policy, prompts):
    others = prompts[prompts["split"] != "training"]
    prompts_that_fit(policy, others, world.manifest, 48, "response_sampling", ("training",))


def test_a_policy_without_a_limit_takes_everything(world, policy, prompts, monkeypatch):
    monkeypatch.setattr(PromptEncoder, "context_tokens", None)
    fitting, reasons = prompts_that_fit(policy, prompts, world.manifest, 48, "response_sampling")
    assert len(fitting) == len(prompts) and not reasons
