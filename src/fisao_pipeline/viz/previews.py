"""A preview of each artifact: which version it is, of which run and commit, its beginning, and how it came about.

Kedro-Viz can show one thing of a dataset, and takes its kind from the name of what a preview is annotated to return, so
annotations here are no strings. Most artifacts are shown as text, which can be selected and copied; plotly figures and
pictures as what they are, with the same lines above them. (Its HTML preview is no choice: it takes underscores for
Markdown, and makes links of text after it has cleaned the HTML.)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NewType

from kedro.io import AbstractDataset, DataCatalog, DatasetError
from kedro_datasets._typing import ImagePreview, PlotlyPreview

TextPreview = NewType("TextPreview", str)
"""For which Kedro-Viz has a renderer, and kedro-datasets no name."""
HISTORY = "training_history"


def preview_of(catalog: DataCatalog, name: str, dataset: AbstractDataset[Any, Any]) -> Callable[[], Any] | None:
    """What Kedro-Viz calls to show a dataset; None for one of which there is nothing to be seen, such as parameters.

    Calling it raises no error: what is missing or cannot be read is said where it would be.

    Args:
        catalog: In which everything is that the artifact was made from.
        name: Catalog name.
        dataset: The entry.
    """
    from fisao_pipeline.datasets.image_folder import ImageFolderDataset  # noqa: PLC0415 - with every command
    from fisao_pipeline.datasets.saved_dataset import SavedImagesDataset  # noqa: PLC0415

    def text() -> TextPreview:
        told = origin(catalog, name, dataset)
        # What the heading says is not said again.
        glimpse = [line for line in _safely(dataset.glimpse) if line != told.get("fault")]
        body = [*glimpse, *_safely(lambda: _lineage(name, told))]
        return TextPreview("\n".join([*_heading(dataset, told), "", *map(_printable, body)]))

    def figure() -> PlotlyPreview:
        from fisao_pipeline.viz import figures  # noqa: PLC0415 - slow to import

        heading = _heading(dataset, origin(catalog, name, dataset))
        return PlotlyPreview(figures.drawn(name, lambda: _drawing(name, dataset), heading))

    def picture() -> ImagePreview:
        from fisao_pipeline.viz import pictures  # noqa: PLC0415 - slow to import

        heading = _heading(dataset, origin(catalog, name, dataset))
        if not is_folder:
            return ImagePreview(pictures.drawn(lambda: pictures.opened(dataset), heading))
        heading += _safely(lambda: [f"{len(dataset.load().files()):,} images, the first of them:"])
        return ImagePreview(pictures.drawn(lambda: pictures.contact_sheet(dataset.load()), heading))

    is_folder = isinstance(dataset, ImageFolderDataset | SavedImagesDataset)
    if is_folder:
        return picture
    drawn_as = "PlotlyPreview" if name == HISTORY else getattr(dataset, "drawn_as", "")
    by_kind = {"PlotlyPreview": figure, "ImagePreview": picture}
    return by_kind.get(drawn_as, text if hasattr(dataset, "glimpse") else None)


def origin(catalog: DataCatalog, name: str, dataset: AbstractDataset[Any, Any]) -> Mapping[str, Any]:
    """How the artifact that would be loaded came about, as `artifacts.tree.tree_of` tells it; raises no error.

    Of what has no versions it is the record alone; a `fault` says why there is no more.
    """
    from fisao_pipeline.artifacts.provenance import read_record  # noqa: PLC0415
    from fisao_pipeline.artifacts.tree import tree_of  # noqa: PLC0415 - slow to import

    version = None
    try:
        version = getattr(dataset, "resolve_load_version", lambda: None)()
        if version is not None:
            return tree_of(catalog, name, version)
        # What is there once and is told by its content has a record only if a run made it.
        place = dataset.provenance_path(None) if hasattr(dataset, "provenance_path") else None
        record = read_record(place) if place is not None else None
        return {**(record or {}), "artifact": name, "version": None, "inputs": []}
    except Exception as error:  # of whatever somebody's files hold
        return {"artifact": name, "version": version, "fault": _reason(error)}


def _heading(dataset: AbstractDataset[Any, Any], told: Mapping[str, Any]) -> list[str]:
    """Version, run, commit and node, size: as far as they are known."""
    lines = []
    if told["version"] is not None:
        several = len(dataset.versions()) if hasattr(dataset, "versions") else 1
        lines.append(f"version: {told['version']}" + (f", the last of {several}" if several > 1 else ""))
    elif "content" in told:
        lines.append(f"content: {told['content']}")
    if "node" in told:
        lines.append(f"MLflow run: {told.get('mlflow_run_id') or 'none'}")
        lines.append(f"commit: {_commit(told)}")
        lines.append(f"made by: {told['node']}, {told.get('created', '')}")
    if "bytes" in told:
        rows = f"{told['rows']:,} rows, " if "rows" in told else ""
        lines.append(f"size: {rows}{_said_bytes(told['bytes'])}")
    if "fault" in told:
        lines.append(told["fault"])
    return [_printable(line) for line in lines]


def _lineage(name: str, told: Mapping[str, Any]) -> Iterator[str]:
    from fisao_pipeline.artifacts.tree import lines_of  # noqa: PLC0415 - slow to import

    if told.get("inputs"):
        yield from ("", f"how it came about (python -m fisao_pipeline lineage {name}@{told['version']}):", "")
        yield from lines_of(told)


def _drawing(name: str, dataset: AbstractDataset[Any, Any]) -> Any:
    from fisao_pipeline.viz import figures  # noqa: PLC0415 - slow to import

    return figures.curves(dataset.load()) if name == HISTORY else dataset.load()


def _commit(told: Mapping[str, Any]) -> str:
    from fisao_pipeline.reporting.lineage import said_commit  # noqa: PLC0415 - with every command

    return said_commit({"git_commit": told.get("git_commit"), "git_dirty": told.get("git_dirty")})


def _said_bytes(count: int) -> str:
    from fisao_pipeline.artifacts.sizes import said_bytes  # noqa: PLC0415 - slow to import

    return said_bytes(count)


def _safely(read: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return list(read())
    except Exception as error:  # of whatever somebody's files hold
        return [_reason(error)]


def _reason(error: Exception) -> str:
    """Why there is nothing to be seen, in a line."""
    if isinstance(error, DatasetError) and "Did not find any versions" in str(error):
        return "not made yet"
    return f"cannot be shown: {' '.join(str(error).split()) or type(error).__name__}"


def _printable(line: str) -> str:
    """A line without what a terminal or browser would act on: controls, marks that turn the direction of writing."""
    return "".join(sign if sign.isprintable() else "�" for sign in line)
