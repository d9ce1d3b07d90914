"""Images that were ingested and are no longer where they were, told before a model is loaded to look at them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kedro.io import DataCatalog, DatasetError
from kedro.pipeline.node import Node

from fisao_pipeline.params.base import SPLITS
from fisao_pipeline.runs.resume import stage_command

if TYPE_CHECKING:
    import pandas as pd

_IMAGES, _MANIFEST, _PROMPTS = "image_folder", "image_manifest", "prompts"
_MODELS = {"policy_backbone", "verifier"}
# Splits whose images a stage opens; a pipeline that is not here may open all.
_OPENED = {
    "response_sampling": {"calibration", "training"},
    "reward_annotation": {"calibration", "training"},
    "policy_training": {"training", "probe"},
    "benchmark_evaluation": {"held_out"},
}
_MOST_NAMED = 3


class _Folder(Protocol):
    @property
    def root(self) -> Path: ...

    def files(self) -> list[str]: ...


def shows_images_to_a_model(node: Node) -> bool:
    """Whether a node loads a model and opens ingested images for it."""
    inputs = set(node.inputs)
    return inputs.issuperset({_IMAGES, _MANIFEST}) and bool(inputs & _MODELS)


def gone_before_node(
    node: Node, nodes: Iterable[Node], inputs: Mapping[str, Any], catalog: DataCatalog, run_params: Mapping[str, Any]
) -> str | None:
    """What is wrong where images are gone that a node or a later one of its run opens; None where all are there.

    Args:
        node: About to be run; it shows images to a model.
        nodes: All of the run.
        inputs: Loaded, of the node.
        catalog: Of the run.
        run_params: What Kedro hands to its pipeline hooks; the command in the answer has their settings.
    """
    readers = [node, *filter(shows_images_to_a_model, nodes)]
    splits = set().union(*(_splits_of(reader) for reader in readers))
    manifest = inputs[_MANIFEST]
    if splits != set(SPLITS):
        prompts = inputs[_PROMPTS] if _PROMPTS in inputs else catalog.load(_PROMPTS)
        manifest = manifest[manifest["image_id"].isin(prompts.loc[prompts["split"].isin(splits), "image_id"])]
    return gone_images(inputs[_IMAGES], manifest, run_params)


def gone_in_catalog(catalog: DataCatalog, run_params: Mapping[str, Any]) -> str | None:
    """What is wrong where any ingested image is gone; None where all are there, or nothing was ingested yet.

    Args:
        catalog: That names the images and what was ingested.
        run_params: What Kedro hands to its pipeline hooks; the command in the answer has their settings.
    """
    try:
        if not catalog.exists(_MANIFEST):
            return None
        folder, manifest = catalog.load(_IMAGES), catalog.load(_MANIFEST)
    except DatasetError:
        return None  # A folder that is missing as a whole, or a corrupt table, is told by others.
    return gone_images(folder, manifest, run_params)


def gone_images(folder: _Folder, manifest: pd.DataFrame, run_params: Mapping[str, Any]) -> str | None:
    """What is wrong where images of a manifest are not in their folder; None where all are there.

    The folder is listed once: to ask for each of a million names takes as long, and on a network many times longer.

    Args:
        folder: The images.
        manifest: Rows of the ``image_manifest`` table.
        run_params: What Kedro hands to its pipeline hooks; the command in the answer has their settings.
    """
    there = set(folder.files())
    gone = [name for name in manifest["file_name"] if name not in there]
    if not gone:
        return None
    named = ", ".join(gone[:_MOST_NAMED]) + (", …" if len(gone) > _MOST_NAMED else "")
    again = stage_command(run_params, ["image_ingestion"])
    return (
        f"images of '{_MANIFEST}' that are no longer in {folder.root}: {len(gone)} ({named}). Put them back; or "
        f"`{again}` ingests what is there, and stages that read images are to be run anew"
    )


def _splits_of(node: Node) -> set[str]:
    known = [_OPENED[tag] for tag in node.tags if tag in _OPENED]
    return set().union(*known) if known else set(SPLITS)
