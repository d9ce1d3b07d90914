"""Arms change what they name and nothing else, or are refused before anything runs."""

from pathlib import Path

import pytest
from kedro.config import OmegaConfigLoader

from fisao_pipeline.experiments.arms import StageSettings, plan_rows
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.params.study import Arm, StudyParams
from fisao_pipeline.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[2] / "conf"


def load(env: str) -> dict:
    return OmegaConfigLoader(str(CONF), env=env, **{**CONFIG_LOADER_ARGS, "default_run_env": env})["parameters"]


def settings_of(env: str) -> StageSettings:
    blocks = load(env)
    return StageSettings(
        ResponseSamplingParams(**blocks["response_sampling"]),
        RewardAnnotationParams(**blocks["reward_annotation"]),
        PolicyTrainingParams(**blocks["policy_training"]),
        BenchmarkEvaluationParams(**blocks["benchmark_evaluation"]),
    )


@pytest.fixture(scope="module")
def base() -> StageSettings:
    return settings_of("base")


def arm(name="a", **changes) -> Arm:
    return Arm(name=name, set={key.replace("__", "."): value for key, value in changes.items()})


def difference(left: StageSettings, right: StageSettings) -> dict:
    ours, theirs = left.flat(), right.flat()
    assert ours.keys() == theirs.keys()
    return {key: theirs[key] for key in ours if ours[key] != theirs[key]}


def test_an_arm_changes_what_it_names_and_seeds_what_is_drawn(base):
    arms = [arm("plain"), arm("other", reward_annotation__rule="midpoint", policy_training__ppo__kl_coef=0.5)]
    rows = plan_rows(base, arms, [7])
    assert [row.arm for row in rows] == ["plain", "other"]
    seeds = {"response_sampling.seed": 7, "policy_training.seed": 7}
    assert difference(base, rows[0].settings) == seeds
    changed = {"reward_annotation.rule": "midpoint", "policy_training.ppo.kl_coef": 0.5}
    assert difference(base, rows[1].settings) == seeds | changed


def test_the_first_seed_of_all_arms_comes_first(base):
    rows = plan_rows(base, [arm("a"), arm("b")], [3, 1])
    assert [(row.seed, row.arm) for row in rows] == [(3, "a"), (3, "b"), (1, "a"), (1, "b")]


def test_parameters_that_only_fit_together_are_set_together(base):
    (row,) = plan_rows(base, [arm(policy_training__ppo__batch_size=10, policy_training__ppo__micro_batch_size=5)], [0])
    assert row.settings.policy_training.ppo.batch_size == 10


def test_a_nested_block_may_be_set_as_a_whole(base):
    baseline = settings_of("smoke").reward_annotation.fixed_baseline.model_dump()
    changes = {"reward_annotation__calibration": "fixed", "reward_annotation__fixed_baseline": baseline}
    (row,) = plan_rows(base, [arm(**changes)], [0])
    assert row.settings.reward_annotation.fixed_baseline.std == baseline["std"]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("policy_training.ppo.kl_ceof", 0.1, "did you mean 'kl_coef'"),
        ("policy_training.kl_coef", 0.1, "'policy_training' has rounds, trainer, lora, ppo"),
        ("policy_trainig.ppo.kl_coef", 0.1, "did you mean 'policy_training'"),
        ("policy_training", {}, "there is no parameter 'policy_training'"),
        ("image_ingestion.seed", 1, "an arm may set parameters of response_sampling, reward_annotation"),
        ("policy_training.ppo.kl_coef.x", 1, "holds no others"),
        ("reward_annotation.fixed_baseline.std", 0.1, "set it as a whole"),
        ("policy_training.ppo.kl_coef", -1, r"'policy_training\.ppo\.kl_coef'.*greater than or equal to 0.*got -1"),
        ("policy_training.ppo.kl_coef", "much", r"'policy_training\.ppo\.kl_coef'.*valid number"),
        ("policy_training.ppo.batch_size", 7, r"'policy_training\.ppo'.*must be a multiple of micro_batch_size"),
        ("reward_annotation.rule", "guess", r"'reward_annotation\.rule'.*'margin', 'midpoint' or 'posterior'"),
        ("reward_annotation.calibration", "fixed", "`fixed` needs fixed_baseline"),
        ("response_sampling.seed", 1, "is set by the study: give its `seeds`"),
        ("policy_training.seed", 1, "is set by the study"),
    ],
)
def test_a_wrong_arm_is_refused_with_its_name_and_key(base, key, value, says):
    with pytest.raises(ValueError, match=rf"Nothing was run(.|\n)*arm 'wrong'.*{says}"):
        plan_rows(base, [arm("fine"), Arm(name="wrong", set={key: value})], [0])


def test_all_faults_are_listed_at_once(base):
    wrong = [arm("one", policy_training__ppo__x=1, reward_annotation__rule="guess"), arm("two", benchmark__seed=1)]
    with pytest.raises(ValueError) as caught:
        plan_rows(base, wrong, [0])
    lines = str(caught.value).splitlines()
    assert [line[:11] for line in lines[1:]] == ["- arm 'one'", "- arm 'one'", "- arm 'two'"]


def test_the_configuration_is_as_it_was(base):
    before = base.flat()
    plan_rows(base, [arm(policy_training__lora__targets=["x"], policy_training__ppo__kl_coef=0.5)], [1])
    assert base.flat() == before


@pytest.mark.parametrize("env", ["base", "smoke"])
@pytest.mark.parametrize("study", ["ablation", "seed_study"])
def test_every_study_of_the_configuration_can_be_planned(env, study):
    """Each arm differs from the others, and from the default in one parameter at most beside those of its trainer
    and a learning rate of its own.

    Prompts go with responses per prompt: a round has as many responses in every arm.
    """
    wanted = StudyParams(**load(env)[study])
    rows = plan_rows(settings_of(env), wanted.arms, wanted.seeds)
    assert len(rows) == len(wanted.arms) * len(wanted.seeds)
    flats = [str(row.settings.flat()) for row in rows]
    assert len(set(flats)) == len(flats)
    companions = ("policy_training.dpo.", "policy_training.ppo.learning_rate", "response_sampling.prompts_per_round")
    chosen = [[key for key in one.set if not key.startswith(companions)] for one in wanted.arms]
    assert all(len(keys) <= 1 for keys in chosen)
    if env == "base":
        sampling = [row.settings.response_sampling for row in rows]
        assert len({each.responses_per_prompt * each.prompts_per_round for each in sampling}) == 1


def test_a_study_of_seeds_has_one_arm():
    (only,) = StudyParams(seeds=(0, 1)).arms
    assert (only.name, only.set) == ("default", {})
