"""Kedro datasets that kedro-datasets lacks: atomic and all versions, folders of adapters, models, images; keys."""

from fisao_pipeline.datasets.adapter_folder import AdapterArtifact, AdapterFolderDataset
from fisao_pipeline.datasets.all_versions import AllVersions, AllVersionsDataset
from fisao_pipeline.datasets.atomic import AtomicDataset, AtomicVersions
from fisao_pipeline.datasets.keyed_folder import KeyedFolder, KeyedFolderDataset
from fisao_pipeline.datasets.lineage import LineageDataset
from fisao_pipeline.datasets.model_folder import ModelFolderDataset
from fisao_pipeline.datasets.tensor_file import TensorFileDataset

__all__ = [
    "AdapterArtifact",
    "AdapterFolderDataset",
    "AllVersions",
    "AllVersionsDataset",
    "AtomicDataset",
    "AtomicVersions",
    "KeyedFolder",
    "KeyedFolderDataset",
    "LineageDataset",
    "ModelFolderDataset",
    "TensorFileDataset",
]
