"""Node of `response_sampling`."""

from __future__ import annotations

import pandas as pd

from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.ingestion.rejections import collect_rejections
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params import ResponseSamplingParams
from fisao_pipeline.pipelines.images import image_opener
from fisao_pipeline.pipelines.rejections import set_aside_long_prompts


def sample_policy_responses(
    prompts: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    policy_backbone: ModelSource,
    params: ResponseSamplingParams,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """K responses of the untrained policy to the calibration prompts and to the first PPO round's training prompts.

    The second table lists the prompts of all splits that are too long for the policy.
    """
    from fisao_pipeline.models.decoding import Decoding  # noqa: PLC0415 - slow to import
    from fisao_pipeline.models.policy import Policy  # noqa: PLC0415
    from fisao_pipeline.training.sampling import sample_responses, stage_prompts  # noqa: PLC0415

    policy = Policy.load(policy_backbone)
    fitting, too_long = set_aside_long_prompts(
        policy, prompts, image_manifest, params.max_new_tokens, "response_sampling", ("calibration", "training")
    )
    rejected = collect_rejections(too_long, listed_in="rejected_prompts")
    responses = sample_responses(
        policy,
        stage_prompts(fitting, params),
        image_opener(image_folder, image_manifest),
        Decoding(params.temperature, params.max_new_tokens),
        params.responses_per_prompt,
        params.batch_size,
        params.seed,
        description="sampling responses",
    )
    return responses, rejected
