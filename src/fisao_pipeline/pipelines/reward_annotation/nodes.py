"""Nodes of `reward_annotation`."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params import RewardAnnotationParams
from fisao_pipeline.pipelines.images import image_opener


def annotate_responses(
    responses: pd.DataFrame,
    image_manifest: pd.DataFrame,
    image_folder: ImageFolder,
    annotated_categories: list[str],
    verifier: ModelSource,
    params: RewardAnnotationParams,
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    """Scored and (where annotations can tell) labelled mentions, the verifier's baseline, token rewards."""
    from fisao_pipeline.method.object_spans import ObjectVocabulary  # noqa: PLC0415
    from fisao_pipeline.models.verifier import Verifier  # noqa: PLC0415 - slow to import
    from fisao_pipeline.training.annotation import GroundTruth, annotate  # noqa: PLC0415

    vocabulary = ObjectVocabulary.load(params.vocabulary)
    annotation = annotate(
        responses,
        Verifier.load(verifier),
        vocabulary,
        GroundTruth.read(image_manifest, annotated_categories, vocabulary),
        params,
        image_opener(image_folder, image_manifest),
    )
    return annotation.mentions, annotation.baseline.to_dict(), annotation.token_rewards
