"""How an artifact came about, as a tree: JSON-ready, and as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kedro.io import DataCatalog

from fisao_pipeline.artifacts.ancestry import Ancestor, Version, ancestry
from fisao_pipeline.artifacts.sizes import bytes_below, said_bytes
from fisao_pipeline.datasets.atomic import AtomicVersions
from fisao_pipeline.reporting.lineage import said_commit

MANIFEST = "image_manifest"
# Of a record, what a tree tells; all else is in the record.
_TOLD = ("node", "created", "git_commit", "git_dirty", "mlflow_run_id", "kedro_session_id", "content")


def tree_of(catalog: DataCatalog, name: str, version: str, images: bool = False) -> dict[str, Any]:
    """How an artifact came about, JSON-ready.

    Args:
        catalog: With the artifact.
        name: Catalog name.
        version: Its version.
        images: Whether a manifest's images are told one by one.

    Returns:
        `artifact`, `version`, what its record tells (`node`, `created`, `git_commit`, …), `bytes`, `rows` (of a
        table), `images` (of the manifest: their number, or each one's `file_name` and `sha256`), and `inputs`, each of
        them such a tree. What is met again is there in full once and afterwards has `repeated` alone; a `fault` says
        why the tree ends, or that what was read was not what was saved. What runs were given has its `content` and no
        `node`.
    """
    return _Trees(catalog, [(name, version)], images).tree((name, version))


def trees_below(
    catalog: DataCatalog, inputs: Mapping[str, str | None], contents: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """How what a node reads came about: the `inputs` of the tree of an artifact that the node is about to make.

    Args:
        catalog: With the inputs.
        inputs: Catalog name to version; None for what has none.
        contents: Catalog name to content, where it is known.
    """
    versions = [(name, version) for name, version in inputs.items() if version is not None]
    return list(_Trees(catalog, versions).below({"inputs": inputs, "input_contents": contents}))


class _Trees:
    """Trees that tell what they share once, in the first of them that is asked for."""

    def __init__(self, catalog: DataCatalog, versions: Iterable[Version], images: bool = False) -> None:
        self._catalog, self._images = catalog, images
        self._found, self._told = ancestry(catalog, versions), set[Version]()

    def tree(self, which: Version) -> dict[str, Any]:
        ancestor = self._found[which]
        node: dict[str, Any] = {"artifact": ancestor.name, "version": ancestor.version}
        if ancestor.record is None:
            return node | ({"fault": ancestor.fault} if ancestor.fault else {})
        if which in self._told:
            return node | {"repeated": True}
        self._told.add(which)
        node |= {key: ancestor.record[key] for key in _TOLD if key in ancestor.record}
        measured = _measured(self._catalog, ancestor, self._images)
        return node | measured | {"inputs": list(self.below(ancestor.record))}

    def below(self, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        contents = record.get("input_contents", {})
        for given, of_version in sorted(record["inputs"].items()):
            node = {"artifact": given, "version": None} if of_version is None else self.tree((given, of_version))
            if of_version is not None and _was_other(
                self._catalog, self._found[given, of_version], contents.get(given)
            ):
                node.setdefault("fault", "was read with other content than its record tells")
            told_here = "node" not in node and "repeated" not in node and contents.get(given) is not None
            yield node | ({"content": contents[given]} if told_here else {})


def _was_other(catalog: DataCatalog, ancestor: Ancestor, read: str | None) -> bool:
    """Whether what was read of a version is known to be something else than was saved as it.

    Not asked of models: the content of one tells also how it was loaded, which is the reader's to choose.
    """
    saved = ancestor.record.get("content") if ancestor.record is not None else None
    known = read is not None and saved is not None and isinstance(catalog.get(ancestor.name), AtomicVersions)
    return known and read != saved


def _measured(catalog: DataCatalog, ancestor: Ancestor, images: bool) -> dict[str, Any]:
    """What looking at the files tells: their size, and of tables the number of rows, without reading these."""
    dataset = catalog.get(ancestor.name)
    if not isinstance(dataset, AtomicVersions):
        return {}
    path = dataset.version_path(ancestor.version)
    measured: dict[str, Any] = {"bytes": bytes_below(path) if path.is_dir() else path.stat().st_size}
    if path.suffix != ".parquet":
        return measured
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import

    try:
        measured["rows"] = pq.read_metadata(path).num_rows
        if ancestor.name == MANIFEST:
            columns = ["file_name", "sha256"]
            measured["images"] = pq.read_table(path, columns=columns).to_pylist() if images else measured["rows"]
    except (OSError, ValueError) as error:  # of pyarrow: no parquet file
        measured["fault"] = f"it cannot be read ({error})"
    return measured


def lines_of(tree: Mapping[str, Any]) -> Iterator[str]:
    """A tree as text, a line for each artifact, those that it was made from indented below it."""
    yield _line(tree)
    yield from branches_of(tree.get("inputs", ()), tree.get("images"))


def branches_of(trees: Iterable[Mapping[str, Any]], pictures: Any = None) -> Iterator[str]:
    """The lines below an artifact: the trees of what it was made from, each with its branch."""
    below: list[list[str]] = []
    if isinstance(pictures, int):
        below.append([f"{pictures} images, each by its hash: --images lists them"])
    elif pictures is not None:
        below.append(
            [f"{len(pictures)} images", *(f"    sha256:{one['sha256']}  {one['file_name']}" for one in pictures)]
        )
    below += [list(lines_of(each)) for each in trees]
    for number, (first, *rest) in enumerate(below, 1):
        branch, stem = ("└── ", "    ") if number == len(below) else ("├── ", "│   ")
        yield branch + first
        yield from (stem + line for line in rest)


def _line(tree: Mapping[str, Any]) -> str:
    name = tree["artifact"] if tree["version"] is None else f"{tree['artifact']}@{tree['version']}"
    return f"{name}  {', '.join(_told(tree))}".rstrip()


def _told(tree: Mapping[str, Any]) -> Iterator[str]:
    if tree.get("repeated"):
        yield "see above"
    elif "node" in tree:
        yield tree["node"]
        yield f"commit {said_commit(tree)}" if tree.get("git_commit") else said_commit({**tree, "git_commit": None})
        yield f"MLflow run {tree['mlflow_run_id']}" if tree.get("mlflow_run_id") else "no MLflow run"
        if "rows" in tree:
            yield f"{tree['rows']:,} rows"
        if "bytes" in tree:
            yield said_bytes(tree["bytes"])
    elif tree.get("content"):
        # That of a model begins with its version.
        yield tree["content"].removeprefix(f"{tree['version']} ")
    elif "fault" not in tree:
        yield "content not recorded"
    if "fault" in tree:
        yield tree["fault"]
