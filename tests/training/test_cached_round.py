"""A first round that was made with other settings or models is refused, and one made with the same is not."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from tests.training.test_annotation import PARAMS as ANNOTATION

from fisao_pipeline.method.calibration import Baseline, ClassScores
from fisao_pipeline.method.vocabulary import file_digest
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.training.baseline import VerifierBaseline
from fisao_pipeline.training.cached_round import check_cached_round
from fisao_pipeline.training.sampling import stage_prompts

SAMPLING = ResponseSamplingParams(
    responses_per_prompt=3,
    temperature=0.7,
    max_new_tokens=8,
    prompts_per_round=5,
    calibration_prompts=3,
    batch_size=8,
    seed=2,
)
STORED = json.loads(json.dumps(ANNOTATION.model_dump(mode="json")))
CLASSES = {"correct": ClassScores(0.3, 0.05, 0), "hallucinated": ClassScores(0.1, 0.05, 0)}
BASELINE = VerifierBaseline(
    mentions=Baseline(mode="fixed", mixing_weight=0.5, auroc=None, **CLASSES),
    rests_on=0,
    auroc_of="nothing",
    measured_auroc=None,
    overlap=None,
    thresholds=(0.2, 0.2),
    sentence_mean=0.2,
    sentence_std=0.1,
    sentence_auroc=None,
    sentences_cut=0.0,
    settings=STORED,
    verifier="sha256:clip",
)


@pytest.fixture
def prompts() -> pd.DataFrame:
    splits = ["calibration"] * 10 + ["training"] * 30
    return pd.DataFrame({"prompt_id": [f"p{n:02}" for n in range(40)], "split": splits})


@pytest.fixture
def responses(prompts) -> pd.DataFrame:
    """What the stage makes of these settings: some responses are cut, some stop earlier."""
    asked = stage_prompts(prompts, SAMPLING)
    table = asked.loc[asked.index.repeat(3)].reset_index(drop=True)
    lengths = [8 if number % 2 else 4 for number in range(len(table))]
    return table.assign(
        token_ids=[[1] * length for length in lengths],
        finish_reason=["length" if length == 8 else "stop" for length in lengths],
        temperature=0.7,
        backbone="sha256:llava",
        sampler="in_process",
    )


MODELS = {"backbone": "sha256:llava", "verifier": "sha256:clip"}


def check(responses, prompts, stored=STORED, annotation=ANNOTATION, baseline=BASELINE, models=MODELS, **sampling):
    sampling = SAMPLING.model_copy(update=sampling)
    check_cached_round(responses, prompts, replace(baseline, settings=stored), sampling, annotation, **models)


def test_the_same_settings_pass_after_a_round_trip(responses, prompts, tmp_path):
    responses.to_parquet(tmp_path / "responses")
    check(pd.read_parquet(tmp_path / "responses"), prompts)


def test_what_changes_no_draw_may_change(responses, prompts):
    check(responses, prompts, batch_size=64, calibration_prompts=2)


def test_each_reward_setting_that_differs_is_named_with_both_values_and_the_remedy(responses, prompts):
    changed = ANNOTATION.model_copy(update={"rule": "margin", "false_mention_cost": 3.5})
    with pytest.raises(ValueError) as refusal:
        check(responses, prompts, annotation=changed)
    message = str(refusal.value)
    assert "reward_annotation.rule was 'midpoint' and is 'margin'" in message
    assert "reward_annotation.false_mention_cost was 2.0 and is 3.5" in message
    assert message.count(" was ") - message.count("round was made") == 2
    assert "`kedro run --pipelines=reward_annotation,policy_training` and the same --env and --params" in message


@pytest.mark.parametrize("name", list(STORED))
def test_every_reward_setting_counts(responses, prompts, name):
    with pytest.raises(ValueError, match=rf"reward_annotation\.{name} was 'another'"):
        check(responses, prompts, stored={**STORED, name: "another"})
    if STORED[name] is not None:
        with pytest.raises(ValueError, match=rf"reward_annotation\.{name} was None"):
            check(responses, prompts, stored={key: value for key, value in STORED.items() if key != name})


def test_a_setting_that_there_is_no_more_counts_too(responses, prompts):
    with pytest.raises(ValueError, match=r"reward_annotation\.gone was 1 and is None"):
        check(responses, prompts, stored={**STORED, "gone": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "vllm"}, r"response_sampling\.sampler was 'in_process' and is 'vllm'"),
        ({"temperature": 1.0}, r"response_sampling\.temperature was 0\.7 and is 1\.0"),
        ({"responses_per_prompt": 4}, r"response_sampling\.responses_per_prompt was 3 and is 4"),
        ({"max_new_tokens": 16}, r"response_sampling\.max_new_tokens was 8 and is 16"),
        ({"max_new_tokens": 6}, r"response_sampling\.max_new_tokens was 8 and is 6"),
        ({"seed": 3}, r"response_sampling\.seed .* was '5 prompts' and is '5 prompts, [0-4] of them the same'"),
        ({"prompts_per_round": 7}, r"prompts_per_round .* was '5 prompts' and is '7 prompts, 5 of them the same'"),
    ],
)
def test_each_sampling_setting_that_the_rows_tell(responses, prompts, change, message):
    with pytest.raises(ValueError, match=message) as refusal:
        check(responses, prompts, **change)
    assert "--pipelines=response_sampling,reward_annotation,policy_training" in str(refusal.value)


def test_where_no_response_was_cut_a_longer_limit_passes_and_a_shorter_one_does_not(responses, prompts):
    stopped = responses.assign(finish_reason="stop")
    check(stopped, prompts, max_new_tokens=16)
    with pytest.raises(ValueError, match=r"max_new_tokens was 8 and is 6"):
        check(stopped, prompts, max_new_tokens=6)


def test_a_prompt_that_is_not_asked_any_more(responses, prompts):
    """Another image_ingestion, or another backbone with a shorter context."""
    first = responses.loc[responses["split"] == "training", "prompt_id"].iloc[0]
    with pytest.raises(ValueError, match="4 of them the same"):
        check(responses, prompts[prompts["prompt_id"] != first])


def test_responses_of_a_version_that_did_not_say_the_temperature(responses, prompts):
    with pytest.raises(ValueError, match=r"response_sampling\.temperature was None"):
        check(responses.drop(columns="temperature"), prompts)


def test_what_vllm_drew_is_not_taken_for_the_policys_own(responses, prompts):
    """PPO would not weigh its tokens."""
    drawn = responses.assign(sampler="vllm")
    check(drawn, prompts, sampler="vllm", engine_memory=0.3)
    with pytest.raises(ValueError, match=r"response_sampling\.sampler was 'vllm' and is 'in_process'"):
        check(drawn, prompts)


def test_responses_of_a_version_that_did_not_say_the_sampler_are_the_policys_own(responses, prompts):
    older = responses.drop(columns="sampler")
    check(older, prompts)
    with pytest.raises(ValueError, match=r"response_sampling\.sampler was 'in_process' and is 'vllm'"):
        check(older, prompts, sampler="vllm")


def test_rewards_of_another_verifier(responses, prompts):
    with pytest.raises(ValueError, match="verifier was 'sha256:clip' and is 'sha256:siglip'") as refusal:
        check(responses, prompts, models={**MODELS, "verifier": "sha256:siglip"})
    assert "`kedro run --pipelines=reward_annotation,policy_training`" in str(refusal.value)
    with pytest.raises(ValueError, match="verifier was None and is 'sha256:clip'"):
        check(responses, prompts, baseline=replace(BASELINE, verifier=None))


def test_responses_of_another_backbone(responses, prompts):
    with pytest.raises(ValueError, match="policy_backbone was 'sha256:llava' and is 'sha256:qwen'") as refusal:
        check(responses, prompts, models={**MODELS, "backbone": "sha256:qwen"})
    assert "`kedro run --pipelines=response_sampling,reward_annotation,policy_training`" in str(refusal.value)
    with pytest.raises(ValueError, match="policy_backbone was None"):
        check(responses.drop(columns="backbone"), prompts)


def test_a_vocabulary_file_of_other_content(responses, prompts, tmp_path):
    """Its path is the same, so the settings do not tell."""
    file = tmp_path / "words.txt"
    file.write_text("dog, puppy")
    annotation = ANNOTATION.model_copy(update={"vocabulary": str(file)})
    stored = annotation.model_dump(mode="json")
    baseline = replace(BASELINE, vocabulary_digest=file_digest(str(file)))
    check(responses, prompts, stored, annotation, baseline)
    file.write_text("dog, puppy, hound")
    with pytest.raises(ValueError, match=r"the content of reward_annotation\.vocabulary \(.*words\.txt\) was"):
        check(responses, prompts, stored, annotation, baseline)
