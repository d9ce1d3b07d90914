"""Which trainer the parameters name: the only place that looks at the name."""

from __future__ import annotations

from collections.abc import Callable, Collection

from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.params.across_stages import comparison_faults
from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.training.dpo import DPOLearner
from fisao_pipeline.training.learning import Learner
from fisao_pipeline.training.ppo import PPOLearner
from fisao_pipeline.training.ranking import Judge, Ranking, summed_rewards
from fisao_pipeline.training.rejection_sampling import RejectionSamplingLearner
from fisao_pipeline.training.tables import GroundTruth


def make_learner(
    policy: Policy, open_image: ImageOpener, temperature: float, params: PolicyTrainingParams, judge: Judge
) -> Learner:
    """The trainer that ``params.trainer`` names, with its own block of parameters."""
    rankings: dict[str, Ranking] = {"rewards": summed_rewards, "annotations": judge}
    fixed = (policy, open_image, temperature)
    builders: dict[str, Callable[[], Learner]] = {
        "ppo": lambda: PPOLearner(*fixed, params.ppo, params.rounds),
        "dpo": lambda: DPOLearner(*fixed, params.dpo, params.rounds, rankings[params.dpo.ranked_by]),
        "rejection_sampling": lambda: RejectionSamplingLearner(
            *fixed, params.rejection_sampling, params.rounds, summed_rewards
        ),
    }
    return builders[params.trainer]()


def check_trainer(
    params: PolicyTrainingParams,
    sampling: ResponseSamplingParams,
    truth: GroundTruth,
    training_images: Collection[str],
) -> None:
    """Refuse a trainer that could not learn from what it will be given, before a model is loaded.

    Args:
        params: Names the trainer.
        sampling: Says how many responses a prompt has.
        truth: What the annotations know.
        training_images: Ids of the images of training prompts.

    Raises:
        ValueError: A trainer or baseline that compares responses gets one per prompt, or a trainer is to rank by
            annotations without any.
    """
    for fault in comparison_faults(sampling, training=params):
        raise ValueError(fault)
    by_labels = params.trainer == "dpo" and params.dpo.ranked_by == "annotations"
    if by_labels and not set(training_images) & set(truth.objects):
        raise ValueError(
            "policy_training: dpo.ranked_by `annotations` needs annotated training images, and none of the "
            f"{len(set(training_images))} is annotated: add their annotations and re-run from image_ingestion on, or "
            "set policy_training.dpo.ranked_by to `rewards`"
        )
