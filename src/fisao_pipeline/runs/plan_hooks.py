"""Puts into the catalog what a plan is about, before it runs: nodes are given data, not the catalog they are in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog, DatasetError, MemoryDataset
from kedro.pipeline import Pipeline

from fisao_pipeline.datasets.image_folder import ImageFolderDataset
from fisao_pipeline.datasets.json_files import JsonFilesDataset
from fisao_pipeline.planning.subject import PLAN_SUBJECT, PlanSubject
from fisao_pipeline.runs.gone_images import gone_in_catalog
from fisao_pipeline.runs.preflight import missing_inputs, registered_pipelines, warn_of_unpinned

# Larger files take long to read through: ingestion, which comes first and needs no GPU, tells what is wrong with them.
_READ_THROUGH_BYTES = 32 * 2**20


class PlanHooks:
    """Looks at the catalog for `plan`, since nodes are given data and not the catalog that says where they are."""

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Put the subject into the catalog, for a pipeline that asks for it."""
        if PLAN_SUBJECT in pipeline.inputs():
            catalog[PLAN_SUBJECT] = MemoryDataset(subject_of(run_params, catalog), copy_mode="assign")


def subject_of(run_params: Mapping[str, Any], catalog: DataCatalog) -> PlanSubject:
    """Models, prompts and what is missing for all five stages."""
    registered = registered_pipelines()
    models = {name: catalog.get(name).source for name in ("policy_backbone", "verifier")}
    faults = missing_inputs(run_params, registered["__default__"], catalog, registered)
    faults += filter(None, [gone_in_catalog(catalog, run_params)])
    if not catalog.exists("prompts"):  # what was ingested counts, whatever became of its files
        faults += _malformed(catalog)
    warn_of_unpinned(models, catalog, run_params.get("env"))
    return PlanSubject(models, _prompt_counts(catalog), tuple(faults))


def _malformed(catalog: DataCatalog) -> list[str]:
    """Annotations and prompts that cannot be parsed, by file, line and column."""
    faults = []
    for name in ("raw_annotations", "raw_prompts"):
        dataset = catalog.get(name)
        if isinstance(dataset, JsonFilesDataset) and dataset.exists() and dataset.size() <= _READ_THROUGH_BYTES:
            try:
                dataset.load()
            except DatasetError as error:
                faults.append(f"{name}: {error}")
    return faults


def _prompt_counts(catalog: DataCatalog) -> dict[str, int]:
    try:
        return {str(split): int(count) for split, count in catalog.load("prompts")["split"].value_counts().items()}
    except DatasetError:
        pass
    folder, parameters = catalog.get("image_folder"), catalog.get("params:image_ingestion")
    if not isinstance(folder, ImageFolderDataset) or parameters is None:
        return {}
    try:
        images = len(folder.load().files())
    except DatasetError:
        return {}
    block = parameters.load()
    fractions, sources = (
        block[name] if isinstance(block, Mapping) else getattr(block, name)
        for name in ("split_fractions", "source_splits")
    )
    # Then fractions are shares of what a folder or an annotation file holds: how many those are, ingestion finds out.
    if sources:
        return {}
    return {split: round(images * share) for split, share in fractions.items()}
