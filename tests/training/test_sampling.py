"""The responses table, and which prompts a round asks."""

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pocket_models import favour, stir

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.source import identity
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.training.sampling import RESPONSE_COLUMNS, round_prompts, sample_responses, stage_prompts

DECODING = Decoding(1.0, 10)


@pytest.fixture(scope="module")
def policy(world):
    policy = stir(world.policy())
    return favour(policy, policy.tokenizer.eos_token_id, 3.0)


def sample(world, policy, prompts=None, k=2, batch_size=8, seed=0, **options):
    prompts = world.prompts if prompts is None else prompts
    return sample_responses(policy, prompts, world.open_image, DECODING, k, batch_size, seed, **options)


def test_the_table(world, policy):
    table = sample(world, policy, k=3)
    assert list(table) == RESPONSE_COLUMNS
    assert table["prompt_id"].tolist() == [p for p in world.prompts["prompt_id"] for _ in range(3)]
    assert table["sample_index"].tolist() == [0, 1, 2] * len(world.prompts)
    assert table["response_id"].is_unique
    merged = table.merge(world.prompts, on="prompt_id", suffixes=("", "_asked"))
    assert (merged["image_id"] == merged["image_id_asked"]).all()
    assert (merged["split"] == merged["split_asked"]).all()
    eos = policy.tokenizer.eos_token_id
    for row in table.itertuples():
        lengths = {len(row.token_ids), len(row.logprobs), len(row.token_starts), len(row.token_ends)}
        assert lengths == {len(row.token_ids)}
        assert row.text == policy.tokenizer.decode(row.token_ids, skip_special_tokens=True)
        assert row.finish_reason == ("stop" if row.token_ids[-1] == eos else "length")
        assert row.finish_reason == "stop" or len(row.token_ids) == DECODING.max_new_tokens
    assert set(table["finish_reason"]) == {"stop", "length"}
    assert set(table["backbone"]) == {identity(world.policy_source)}
    assert set(table["sampler"]) == {"in_process"}
    assert set(table["temperature"]) == {DECODING.temperature}, "what the logprobs were taken at"


@pytest.mark.parametrize("known", [False, True])
def test_prompts_of_similar_length_are_asked_together(world, policy, monkeypatch, known):
    """By their characters, the shortest first; by their tokens, where these are known, the longest first."""
    prompts = world.prompts.head(6).assign(prompt=["c" * n for n in (9, 1, 8, 2, 7, 3)])
    asked, answer = [], policy.sample_prompts

    def note(texts, *args):
        asked.append([len(text) for text in texts])
        return answer(texts, *args)

    monkeypatch.setattr(policy, "sample_prompts", note)
    sample(world, policy, prompts, k=1, batch_size=3, lengths=[2, 4, 1, 6, 3, 5] if known else None)
    assert asked == ([[2, 3, 1], [7, 9, 8]] if known else [[1, 2, 3], [7, 8, 9]])


def test_each_response_is_to_its_own_prompt(world, policy):
    """Its recorded logprobs are those that scoring gives it beside its own prompt and picture."""
    table = sample(world, policy, k=2, batch_size=6)
    asked = world.prompts.set_index("prompt_id").loc[table["prompt_id"]]
    batch = policy.encode(asked["prompt"].tolist(), asked["image_id"].tolist(), world.open_image)
    ids = [torch.tensor(row) for row in table["token_ids"]]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask = torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in ids])[:, None]
    with torch.no_grad():
        logprobs, _ = policy.score(batch, padded, mask, DECODING.temperature)
    recorded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in table["logprobs"]], batch_first=True)
    torch.testing.assert_close(logprobs, recorded, atol=1e-4, rtol=0)


def test_the_seed_decides_and_the_global_state_is_left_alone(world, policy):
    torch.manual_seed(99)
    state = torch.get_rng_state()
    first = sample(world, policy, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    pd.testing.assert_frame_equal(sample(world, policy, seed=4), first)
    assert sample(world, policy, seed=5)["text"].tolist() != first["text"].tolist()


def test_different_batches_of_a_run_draw_differently(world, policy):
    """The same prompt and picture in two batches does not give the same answer twice."""
    prompt = world.prompts.head(1)
    twice = pd.concat([prompt] * 6, ignore_index=True).assign(prompt_id=[f"q{n}" for n in range(6)])
    texts = sample(world, policy, twice, k=1, batch_size=1)["text"]
    assert texts.nunique() > 3


def test_greedy_answers_do_not_depend_on_the_batch_size(world, policy):
    greedy = Decoding(0.0, 10)
    one, many = (
        sample_responses(policy, world.prompts, world.open_image, greedy, 1, size, seed=0)["text"].tolist()
        for size in (1, 64)
    )
    assert one == many


def test_the_reference_answers_without_the_adapter(world):
    policy = stir(world.policy(), scale=0.5)
    bare = world.policy(lora=None)
    expected = sample(world, bare)
    pd.testing.assert_frame_equal(sample(world, policy, reference=True), expected)
    assert sample(world, policy)["text"].tolist() != expected["text"].tolist()


# --- rounds --------------------------------------------------------------------------------------------------------


def numbered(count: int, split: str = "training") -> pd.DataFrame:
    return pd.DataFrame({"prompt_id": [f"p{n}" for n in range(count)], "split": split})


@settings(deadline=None)
@given(count=st.integers(1, 40), per_round=st.integers(1, 50), index=st.integers(0, 20), seed=st.integers(0, 2**31))
def test_a_round_is_deterministic_and_asks_nothing_twice(count, per_round, index, seed):
    prompts = numbered(count)
    chosen = round_prompts(prompts, index, per_round, seed)
    pd.testing.assert_frame_equal(chosen, round_prompts(prompts, index, per_round, seed))
    assert chosen["prompt_id"].is_unique
    assert 1 <= len(chosen) <= min(per_round, count)
    assert set(chosen["prompt_id"]) <= set(prompts["prompt_id"])


@settings(deadline=None)
@given(count=st.integers(1, 40), per_round=st.integers(1, 20), seed=st.integers(0, 1000))
def test_every_prompt_is_asked_before_any_is_asked_again(count, per_round, seed):
    prompts = numbered(count)
    asked: list[str] = []
    for index in range(count // min(per_round, count)):
        asked += round_prompts(prompts, index, per_round, seed)["prompt_id"].tolist()
    assert len(set(asked)) == len(asked)
    following = round_prompts(prompts, count // min(per_round, count), per_round, seed)["prompt_id"]
    assert set(prompts["prompt_id"]) <= {*asked, *following} or len(following) < min(per_round, count)


def test_a_second_pass_has_another_order():
    prompts = numbered(30)
    passes = [round_prompts(prompts, index, 30, seed=0)["prompt_id"].tolist() for index in range(2)]
    assert sorted(passes[0]) == sorted(passes[1])
    assert passes[0] != passes[1]


def test_another_seed_has_another_order():
    prompts = numbered(30)
    assert (
        round_prompts(prompts, 0, 10, 0)["prompt_id"].tolist() != round_prompts(prompts, 0, 10, 1)["prompt_id"].tolist()
    )


def test_the_order_of_the_file_decides_nothing():
    """Nor does where a row was added; a sorted file is not cut at its head."""
    prompts = pd.concat([numbered(60, "calibration").assign(prompt_id=lambda t: "c" + t["prompt_id"]), numbered(60)])
    params = PARAMS.model_copy(update={"calibration_prompts": 10, "prompts_per_round": 10})
    asked = stage_prompts(prompts, params)["prompt_id"].tolist()
    assert stage_prompts(prompts[::-1], params)["prompt_id"].tolist() == asked
    for split in ("calibration", "training"):
        head = set(prompts.loc[prompts["split"] == split, "prompt_id"].head(10))
        assert len(head & set(asked)) < 8
    new = pd.DataFrame({"prompt_id": ["new", "cnew"], "split": ["training", "calibration"]})
    more = set(stage_prompts(pd.concat([new, prompts]), params)["prompt_id"])
    assert len(set(asked) - more) <= 2


def test_no_training_prompts():
    with pytest.raises(ValueError, match=r"split_fractions\.training"):
        round_prompts(numbered(0), 0, 3, 0)


PARAMS = ResponseSamplingParams(
    responses_per_prompt=2,
    temperature=1.0,
    max_new_tokens=10,
    prompts_per_round=5,
    calibration_prompts=3,
    batch_size=8,
    seed=2,
)


def test_the_stage_asks_what_the_first_round_will_read(world):
    asked = stage_prompts(world.prompts, PARAMS)
    training = world.prompts[world.prompts["split"] == "training"]
    first_round = round_prompts(training, 0, PARAMS.prompts_per_round, PARAMS.seed)
    pd.testing.assert_frame_equal(
        asked[asked["split"] == "training"].reset_index(drop=True), first_round.reset_index(drop=True)
    )
    assert asked["split"].value_counts().to_dict() == {"training": 5, "calibration": 3}


def test_the_stage_never_asks_held_out_or_probe_prompts(world):
    everything = PARAMS.model_copy(update={"prompts_per_round": 1000, "calibration_prompts": 1000})
    assert set(stage_prompts(world.prompts, everything)["split"]) == {"training", "calibration"}


def test_no_calibration_prompts():
    with pytest.raises(ValueError, match=r"split_fractions\.calibration"):
        stage_prompts(numbered(4), PARAMS)
