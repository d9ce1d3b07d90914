"""Wiring of `image_ingestion`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.image_ingestion.nodes import (
    build_prompts,
    check_image_folder,
    collect_rejected,
    join_annotations,
)


def create_pipeline(**_: object) -> Pipeline:
    """Return the stage: image folder, annotations and prompts in; manifest, categories, prompts and rejections out."""
    return Pipeline(
        [
            node(
                check_image_folder,
                inputs=["image_folder", "params:image_ingestion"],
                outputs=["checked_images", "refused_image_files"],
                name="check_images",
            ),
            node(
                join_annotations,
                inputs=["checked_images", "raw_annotations", "refused_image_files"],
                outputs=["annotated_images", "refused_annotations", "annotated_categories"],
                name="join_annotations",
            ),
            node(
                build_prompts,
                inputs=["annotated_images", "raw_prompts", "refused_image_files", "params:image_ingestion"],
                outputs=["image_manifest", "prompts", "refused_prompts", "quarantined_images"],
                name="build_prompts",
            ),
            node(
                collect_rejected,
                inputs=["refused_image_files", "quarantined_images", "refused_annotations", "refused_prompts"],
                outputs="rejected_images",
                name="collect_rejected",
            ),
        ],
        tags=["image_ingestion"],
    )
