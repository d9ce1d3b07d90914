"""Nodes of `image_ingestion`: each calls one function of the ingestion package."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fisao_pipeline.ingestion.annotations import annotate_images
from fisao_pipeline.ingestion.images import Folder, check_images
from fisao_pipeline.ingestion.prompts import make_prompts
from fisao_pipeline.ingestion.rejections import collect_rejections
from fisao_pipeline.params.image_ingestion import ImageIngestionParams


def check_image_folder(image_folder: Folder, params: ImageIngestionParams) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode every file: usable images, refused files."""
    return check_images(image_folder, params)


def join_annotations(
    checked_images: pd.DataFrame, annotations: list[tuple[str, Any]] | None, refused_images: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Join annotations to usable images: the images, refused annotations, the categories that the files declare."""
    return annotate_images(checked_images, annotations, refused_images)


def build_prompts(
    annotated_images: pd.DataFrame,
    prompts: list[tuple[str, Any]] | None,
    refused_images: pd.DataFrame,
    params: ImageIngestionParams,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Join prompts to images and deal both into splits: the manifest, prompts, refused rows, quarantined images."""
    return make_prompts(annotated_images, prompts, refused_images, params)


def collect_rejected(
    images: pd.DataFrame, copies: pd.DataFrame, annotations: pd.DataFrame, prompts: pd.DataFrame
) -> pd.DataFrame:
    """Put everything that was refused into one table and log the counts."""
    return collect_rejections(images, copies, annotations, prompts, listed_in="rejected_images")
