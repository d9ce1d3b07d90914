"""The project's context: its catalog gives every dataset a preview, since a dataset knows no other."""

from __future__ import annotations

from typing import Any

from kedro.framework.context import CatalogCommandsMixin, KedroContext
from kedro.io import AbstractDataset, CatalogProtocol, DataCatalog

from fisao_pipeline.viz.previews import preview_of


class PreviewedCatalog(DataCatalog, CatalogCommandsMixin):
    """A catalog whose datasets have a `preview`, if there is something to be seen of them."""

    def get(self, key: str, *args: Any, **kwargs: Any) -> AbstractDataset[Any, Any] | None:
        """A dataset by its name, with its preview; None where there is none of that name."""
        dataset = super().get(key, *args, **kwargs)
        if dataset is not None and "preview" not in vars(dataset):
            preview = preview_of(self, key, dataset)
            if preview is not None:
                dataset.preview = preview
        return dataset


class PreviewedContext(KedroContext):
    """Makes a `PreviewedCatalog` wherever Kedro would make its plain one."""

    def _get_catalog(self, catalog_class: type = DataCatalog, *args: Any, **kwargs: Any) -> CatalogProtocol:
        return super()._get_catalog(
            PreviewedCatalog if catalog_class is DataCatalog else catalog_class, *args, **kwargs
        )
