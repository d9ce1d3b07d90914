"""The entry that the lineage hook fills."""

import pytest
from kedro.io import DatasetError

from fisao_pipeline.datasets import LineageDataset


def test_without_the_hook_nothing_is_told():
    dataset = LineageDataset()
    assert dataset.exists() and dataset.load() == {"records": [], "tree": []}


def test_nothing_saves_it():
    with pytest.raises(DatasetError, match="recorded beside each artifact"):
        LineageDataset().save([])
