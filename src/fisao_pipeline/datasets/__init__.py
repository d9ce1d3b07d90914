"""Kedro datasets that kedro-datasets lacks: atomic versions, adapter folders, model folders, image folders."""

from fisao_pipeline.datasets.adapter_folder import AdapterArtifact, AdapterFolderDataset
from fisao_pipeline.datasets.atomic import AtomicDataset, AtomicVersions
from fisao_pipeline.datasets.model_folder import ModelFolderDataset

__all__ = ["AdapterArtifact", "AdapterFolderDataset", "AtomicDataset", "AtomicVersions", "ModelFolderDataset"]
