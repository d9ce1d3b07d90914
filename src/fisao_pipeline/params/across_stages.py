"""What is wrong between blocks, which none of them can see alone."""

from __future__ import annotations

from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams


def comparison_faults(
    sampling: ResponseSamplingParams,
    annotation: RewardAnnotationParams | None = None,
    training: PolicyTrainingParams | None = None,
) -> list[str]:
    """What compares the responses of a prompt and would get one of each; blocks that are None are not looked at."""
    if sampling.responses_per_prompt > 1:
        return []
    has_one = f"response_sampling.responses_per_prompt is {sampling.responses_per_prompt}: make it 2 or more"
    faults = []
    if annotation is not None and annotation.calibration == "contrast":
        faults.append(
            f"reward_annotation: calibration `contrast` compares the samples of a prompt, and {has_one} and re-run "
            "from response_sampling on, or set reward_annotation.calibration to `mixture` or `fixed`"
        )
    if training is not None and training.trainer != "ppo":
        faults.append(
            f"policy_training: trainer `{training.trainer}` compares the responses of a prompt, and {has_one} and "
            "re-run from response_sampling on, or set policy_training.trainer to `ppo`"
        )
    elif training is not None and training.ppo.advantage == "group":
        faults.append(
            f"policy_training: ppo.advantage `group` compares a response with the others to its prompt, and {has_one} "
            "and re-run from response_sampling on, or set policy_training.ppo.advantage to `gae` or `batch`"
        )
    return faults
