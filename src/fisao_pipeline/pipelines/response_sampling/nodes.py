"""Node of `response_sampling`."""

from __future__ import annotations

import pandas as pd

from fisao_pipeline.artifacts.node_code import code_digest
from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.datasets.keyed_folder import KeyedFolder
from fisao_pipeline.ingestion.rejections import collect_rejections
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.pipelines.images import image_opener
from fisao_pipeline.pipelines.rejections import set_aside_long_prompts


def sample_policy_responses(
    prompts: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    policy_backbone: ModelSource,
    params: ResponseSamplingParams,
    response_shards: KeyedFolder | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """K responses of the untrained policy to the calibration prompts and to the first PPO round's training prompts.

    The second table lists the prompts of all splits that are too long for the policy. Parts of the responses are kept
    as they are drawn, so that a run that is killed goes on with the rest.
    """
    from fisao_pipeline.models.decoding import Decoding  # noqa: PLC0415 - slow to import
    from fisao_pipeline.models.policy import Policy  # noqa: PLC0415
    from fisao_pipeline.training.sampling import sample_responses, sampling_engine, stage_prompts  # noqa: PLC0415
    from fisao_pipeline.training.shards import Shards, sampling_owner  # noqa: PLC0415

    policy = Policy.load(policy_backbone)
    fitting, too_long = set_aside_long_prompts(
        policy, prompts, image_manifest, params.max_new_tokens, "response_sampling", ("calibration", "training")
    )
    rejected = collect_rejections(too_long, listed_in="rejected_prompts")
    shards = None
    if response_shards is not None:
        owner = sampling_owner(policy_backbone, image_manifest, params)
        shards = Shards(response_shards, owner, params.responses_per_shard, code_digest(sample_responses))
    asked = stage_prompts(fitting, params)
    with sampling_engine(policy, policy_backbone, params, asked, image_manifest):
        responses = sample_responses(
            policy,
            asked,
            image_opener(image_folder, image_manifest),
            Decoding(params.temperature, params.max_new_tokens),
            params.responses_per_prompt,
            params.batch_size,
            params.seed,
            description="sampling responses",
            shards=shards,
        )
    return responses, rejected


def drop_response_shards(
    _saved: pd.DataFrame,
    image_manifest: pd.DataFrame,
    policy_backbone: ModelSource,
    response_shards: KeyedFolder,
    params: ResponseSamplingParams,
) -> None:
    """Remove the parts of the responses that are now in `responses`; those of runs that were not finished stay."""
    from fisao_pipeline.training.shards import drop, sampling_owner  # noqa: PLC0415 - slow to import

    drop(response_shards, lambda: [sampling_owner(policy_backbone, image_manifest, params)])
