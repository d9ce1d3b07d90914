"""The name decides on the trainer, and a trainer that could not learn is refused before a model is loaded."""

import pytest
from tests.training.test_loop import NO_TRUTH, SAMPLING, VOCABULARY, settings

from fisao_pipeline.training.dpo import DPOLearner
from fisao_pipeline.training.ppo import PPOLearner
from fisao_pipeline.training.ranking import Judge, summed_rewards
from fisao_pipeline.training.rejection_sampling import RejectionSamplingLearner
from fisao_pipeline.training.tables import GroundTruth
from fisao_pipeline.training.trainers import check_trainer, make_learner

TRUTH = GroundTruth({"i1": {"dog"}}, frozenset({"dog"}))
JUDGE = Judge(VOCABULARY, TRUTH)


@pytest.mark.parametrize(
    ("trainer", "learner"),
    [("ppo", PPOLearner), ("dpo", DPOLearner), ("rejection_sampling", RejectionSamplingLearner)],
)
def test_the_name_decides(world, trainer, learner):
    policy = world.policy()
    params = settings(trainer=trainer, learning_rate=0.125)
    made = make_learner(policy, world.open_image, 0.9, params, JUDGE)
    assert type(made) is learner
    assert made.params is getattr(params, trainer)
    assert (made.temperature, made.rounds) == (0.9, 2)
    assert made.optimizer.param_groups[0]["lr"] == 0.125


def test_a_value_head_is_ppos_alone(world):
    for trainer, advantage, has_one in (("ppo", "gae", True), ("ppo", "batch", False), ("dpo", None, False)):
        policy = world.policy()
        params = settings(trainer=trainer, **({"advantage": advantage} if advantage else {}))
        make_learner(policy, world.open_image, 1.0, params, JUDGE)
        assert (policy.value_head is not None) == has_one


@pytest.mark.parametrize(("ranked_by", "ranking"), [("rewards", summed_rewards), ("annotations", JUDGE)])
def test_what_dpo_ranks_by(world, ranked_by, ranking):
    params = settings(trainer="dpo", ranked_by=ranked_by)
    assert make_learner(world.policy(), world.open_image, 1.0, params, JUDGE).ranking is ranking


@pytest.mark.parametrize("trainer", ["dpo", "rejection_sampling"])
def test_one_response_a_prompt_cannot_be_compared(trainer):
    one = SAMPLING.model_copy(update={"responses_per_prompt": 1})
    with pytest.raises(
        ValueError, match=rf"policy_training: trainer `{trainer}`.*response_sampling.responses_per_prom"
    ):
        check_trainer(settings(trainer=trainer), one, TRUTH, ["i1"])
    check_trainer(settings(), one, TRUTH, ["i1"])
    check_trainer(settings(trainer=trainer), SAMPLING, TRUTH, ["i1"])


def test_a_group_baseline_needs_a_group():
    one = SAMPLING.model_copy(update={"responses_per_prompt": 1})
    with pytest.raises(ValueError, match=r"policy_training: ppo.advantage `group`.*sampling.responses_per_prompt is 1"):
        check_trainer(settings(advantage="group"), one, TRUTH, ["i1"])
    check_trainer(settings(advantage="group"), SAMPLING, TRUTH, ["i1"])
    for advantage in ("gae", "batch"):
        check_trainer(settings(advantage=advantage), one, TRUTH, ["i1"])


def test_ranking_by_annotations_needs_some_on_training_images():
    by_labels = settings(trainer="dpo", ranked_by="annotations")
    check_trainer(by_labels, SAMPLING, TRUTH, ["i0", "i1"])
    for truth, images in ((NO_TRUTH, ["i1"]), (TRUTH, ["i0", "i2"])):
        with pytest.raises(ValueError, match=r"policy_training: dpo\.ranked_by `annotations` needs annotated training"):
            check_trainer(by_labels, SAMPLING, truth, images)
        check_trainer(settings(trainer="dpo"), SAMPLING, truth, images)
        check_trainer(
            settings(ranked_by="annotations", trainer="dpo").model_copy(update={"trainer": "ppo"}),
            SAMPLING,
            truth,
            images,
        )
