"""From tables to tensors: rows that belong together, or an error that names what does not."""

import math

import pandas as pd
import pytest
import torch

from fisao_pipeline.training.rollouts import build_rollouts, nonempty_responses

CPU = torch.device("cpu")
FINITE = [[0.0, 3.0], [0.0, 1.0, 0.0], [2.0]]


@pytest.fixture
def tables():
    """Three responses to two prompts, of lengths 3, 1 and 2."""
    responses = pd.DataFrame(
        {
            "response_id": ["a/0", "a/1", "b/0"],
            "prompt_id": ["a", "a", "b"],
            "image_id": ["i0", "i0", "i1"],
            "token_ids": [[5, 6, 7], [8], [9, 10]],
            "logprobs": [[-1.0, -2.0, -3.0], [-4.0], [-5.0, -6.0]],
        }
    )
    prompts = pd.DataFrame({"prompt_id": ["b", "a"], "prompt": ["What?", "Describe."]})
    rewards = pd.DataFrame(
        {"response_id": ["b/0", "a/0", "a/1"], "token_rewards": [[0.0, 3.0], [0.0, 1.0, 0.0], [2.0]]}
    )
    return responses, prompts, rewards


def test_rows_belong_together_whatever_the_order_of_the_tables(tables):
    rollouts = build_rollouts(*tables, CPU)
    assert rollouts.prompts == ["Describe.", "Describe.", "What?"]
    assert rollouts.image_ids == ["i0", "i0", "i1"]
    assert rollouts.completion_ids.tolist() == [[5, 6, 7], [8, 0, 0], [9, 10, 0]]
    assert rollouts.completion_mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert rollouts.sampled_logprobs.tolist() == [[-1, -2, -3], [-4, 0, 0], [-5, -6, 0]]
    assert rollouts.token_rewards.tolist() == [[0, 1, 0], [2, 0, 0], [0, 3, 0]]


def test_tables_read_back_from_parquet_are_the_same(tables, tmp_path):
    """Lists come back as arrays."""
    read = []
    for number, table in enumerate(tables):
        table.to_parquet(tmp_path / f"{number}.parquet")
        read.append(pd.read_parquet(tmp_path / f"{number}.parquet"))
    ours, theirs = build_rollouts(*tables, CPU), build_rollouts(*read, CPU)
    assert torch.equal(ours.completion_ids, theirs.completion_ids)
    assert torch.equal(ours.token_rewards, theirs.token_rewards)


def test_rows_of_a_batch_lose_the_padding_they_share(tables):
    part = build_rollouts(*tables, CPU).rows([2, 1])
    assert part.completion_ids.tolist() == [[9, 10], [8, 0]]
    assert part.prompts == ["What?", "Describe."]
    assert part.token_rewards.tolist() == [[0, 3], [2, 0]]
    assert len(part) == 2


def test_empty_responses_are_left_out(tables):
    responses, prompts, rewards = tables
    responses.at[1, "token_ids"] = []
    rollouts = build_rollouts(responses, prompts, rewards, CPU)
    assert len(rollouts) == 2
    assert rollouts.token_rewards.tolist() == [[0, 1, 0], [0, 3, 0]]


def test_only_empty_responses(tables):
    responses, prompts, rewards = tables
    responses["token_ids"] = [[], [], []]
    with pytest.raises(ValueError, match="all responses are empty"):
        build_rollouts(responses, prompts, rewards, CPU)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_names_its_response(tables, value):
    responses, prompts, rewards = tables
    rewards.at[2, "token_rewards"] = [value]
    with pytest.raises(ValueError, match=r"'a/1' is NaN or infinite"):
        build_rollouts(responses, prompts, rewards, CPU)


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_is_no_number_is_named_after_parquet_too(tables, tmp_path, value):
    """Arrow may make a null of a NaN within a list."""
    responses, prompts, rewards = tables
    rewards.at[1, "token_rewards"] = [0.0, value, 0.0]
    rewards.to_parquet(tmp_path / "rewards")
    with pytest.raises(
        ValueError, match=r"token reward of response 'a/0' is NaN or infinite; re-run reward_annotation"
    ):
        build_rollouts(responses, prompts, pd.read_parquet(tmp_path / "rewards"), CPU)
    responses.at[2, "logprobs"] = [value, -6.0]
    responses.to_parquet(tmp_path / "responses")
    with pytest.raises(ValueError, match=r"logprob of response 'b/0' is NaN or infinite; re-run response_sampling"):
        build_rollouts(pd.read_parquet(tmp_path / "responses"), prompts, tables[2].assign(token_rewards=FINITE), CPU)


def test_a_response_without_its_prompt_is_named(tables):
    responses, prompts, rewards = tables
    with pytest.raises(ValueError, match=r"no prompt for 'b'.*re-run from response_sampling"):
        build_rollouts(responses, prompts[prompts["prompt_id"] == "a"], rewards, CPU)


def test_a_response_without_rewards_is_named(tables):
    responses, prompts, rewards = tables
    with pytest.raises(ValueError, match=r"no token rewards for 'b/0'"):
        build_rollouts(responses, prompts, rewards[rewards["response_id"] != "b/0"], CPU)


def test_rewards_of_another_length_are_refused(tables):
    responses, prompts, rewards = tables
    rewards.at[0, "token_rewards"] = [0.0, 3.0, 0.0]
    with pytest.raises(ValueError, match="differ in length; re-run reward_annotation"):
        build_rollouts(responses, prompts, rewards, CPU)


def test_responses_without_a_token_are_counted_and_one_is_named(tables, caplog):
    responses, _, _ = tables
    assert len(nonempty_responses(responses)) == 3
    assert not caplog.records
    responses.at[1, "token_ids"] = []
    assert nonempty_responses(responses)["response_id"].tolist() == ["a/0", "b/0"]
    assert "policy_training: 1 of 3 responses hold no token and are left out (a/1, for example)" in caplog.text
