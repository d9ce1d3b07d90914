"""COCO instances and captions, joined to the images that were found usable."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from fisao_pipeline.ingestion.names import ImageNames
from fisao_pipeline.ingestion.rejections import Rejection, as_id, as_text, rejections_table

MANIFEST_COLUMNS = ["image_id", "file_name", "width", "height", "sha256", "objects", "captions"]
NamedContent = tuple[str, Any]


def annotate_images(
    images: pd.DataFrame, files: Sequence[NamedContent] | None, refused_images: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Add ids, object names and captions to the usable images.

    Args:
        images: Usable images: ``file_name``, ``width``, ``height``, ``sha256``.
        files: ``(name, parsed COCO JSON)`` of each annotation file, or None without annotations.
        refused_images: Refused files (column ``name``), to tell a refused image from a missing one.

    Returns:
        The manifest (``MANIFEST_COLUMNS``, in the order of ``images``), the refused annotations, and the sorted names
        of all categories that the files declare, seen in an image or not. ``objects`` are the sorted category names
        present: an empty list where an image is annotated and empty, None where no instances file lists it.

    Raises:
        ValueError: A file is no COCO JSON, or files were given and not one of their images is usable.
    """
    join = _Join(images["file_name"], refused_images["name"])
    for name, content in files or ():
        join.add_file(name, content)
    if files and not join.image_ids:
        raise ValueError(
            f"None of the images listed in {', '.join(name for name, _ in files)} is among the {len(images)} usable "
            "images. Do `raw_annotations` and `image_folder` belong together? Set `raw_annotations.filepath: null` in "
            "conf/<env>/catalog.yml for images without annotations."
        )
    ids = _image_ids(list(images["file_name"]), join.image_ids)
    manifest = images.assign(
        image_id=pd.Series(ids, index=images.index, dtype="str"),
        objects=_column(images, {name: sorted(found) for name, found in join.objects.items()}),
        captions=_column(images, join.captions),
    )
    return manifest[MANIFEST_COLUMNS], rejections_table(join.rejections), sorted(join.categories)


class _Join:
    """What all annotation files say about each usable image, and what of it was refused."""

    def __init__(self, usable: Iterable[str], refused: Iterable[str]) -> None:
        self.image_ids: dict[str, str] = {}
        self.objects: dict[str, set[str]] = {}
        self.captions: dict[str, list[str]] = defaultdict(list)
        self.categories: set[str] = set()
        self.rejections: list[Rejection] = []
        self._owners: dict[str, str] = {}
        self._usable = ImageNames(usable)
        self._refused = ImageNames(refused)

    def add_file(self, source: str, content: Any) -> None:
        """Read one COCO file: its images first, then what is said about them."""
        coco = _require_coco(source, content)
        files = self._read_images(source, coco["images"])
        categories = self._read_categories(source, coco["categories"])
        self.categories.update(categories.values())
        if "categories" in content:
            for file_name in filter(None, files.values()):
                self.objects.setdefault(file_name, set())
        for row in [*coco["annotations"], *coco["captions"]]:
            self._read_annotation(source, row, files, categories)

    def _read_images(self, source: str, rows: list[Any]) -> dict[str, str | None]:
        """Map the image ids of one file to usable file names; None for a known id whose image is not usable."""
        entries = [row if isinstance(row, dict) else {} for row in rows]
        pairs = [(as_id(row.get("id")), as_text(row.get("file_name"))) for row in entries]
        uses = Counter(image_id for image_id, _ in dict.fromkeys(pairs))
        files: dict[str, str | None] = {}
        claimed: set[str] = set()
        for image_id, reference in pairs:
            name = reference or f"{source} image {image_id}"
            if image_id is None or reference is None:
                self._refuse(name, f"image entry without id or file_name: in {source}")
            elif uses[image_id] > 1:
                self._refuse(name, f"ambiguous image id: {image_id} names {uses[image_id]} images in {source}")
                files[image_id] = None
            elif image_id in files:
                self._refuse(name, f"repeated image entry: id {image_id} in {source}")
            else:
                files[image_id] = self._claim(source, image_id, reference, claimed)
        return files

    def _claim(self, source: str, image_id: str, reference: str, claimed: set[str]) -> str | None:
        """Return the usable file of an image entry, if it is clear and nobody else's."""
        found = self._usable.find(reference)
        if len(found) != 1:
            self._refuse(reference, image_problem(found, self._refused.find(reference), f"listed in {source}"))
        elif self._owners.setdefault(image_id, found[0]) != found[0]:
            self._refuse(reference, f"image id taken: {image_id} of {source} belongs to {self._owners[image_id]}")
        elif found[0] in claimed:
            self._refuse(reference, f"second entry for one image: id {image_id} in {source} is {found[0]} again")
        else:
            claimed.add(found[0])
            self.image_ids.setdefault(found[0], image_id)
            return found[0]
        return None

    def _read_categories(self, source: str, rows: list[Any]) -> dict[str, str]:
        """Map category ids to names; an id with two names is no category at all."""
        entries = [row if isinstance(row, dict) else {} for row in rows]
        pairs = dict.fromkeys((as_id(row.get("id")), as_text(row.get("name"))) for row in entries)
        uses = Counter(category_id for category_id, _ in pairs)
        categories: dict[str, str] = {}
        for category_id, name in pairs:
            if category_id is None or name is None or uses[category_id] > 1:
                self._refuse(f"{source} category {category_id}", f"category without one id and one name: {name}")
            else:
                categories[category_id] = name
        return categories

    def _read_annotation(self, source: str, row: Any, files: dict[str, str | None], categories: dict[str, str]) -> None:
        row = row if isinstance(row, dict) else {}
        name = f"{source} annotation {as_id(row.get('id'))}"
        image_id, category_id = as_id(row.get("image_id")), as_id(row.get("category_id"))
        if image_id not in files:
            self._refuse(name, f"unknown image id: {image_id}")
            return
        file_name = files[image_id]
        if file_name is None:  # The image entry was refused, with its reason, already.
            return
        caption = as_text(row.get("caption"))
        if caption is not None:
            self.captions[file_name].append(caption)
        if category_id in categories:
            self.objects.setdefault(file_name, set()).add(categories[category_id])
        elif category_id is not None or caption is None:
            self._refuse(name, f"unknown category: {category_id}" if category_id else "neither category nor caption")

    def _refuse(self, name: str, reason: str) -> None:
        self.rejections.append(Rejection("annotation", name, reason))


def image_problem(found: Sequence[str], refused: Sequence[str], where: str) -> str:
    """Say why a reference does not name exactly one usable image."""
    if found:
        return f"ambiguous image name: {where} it may mean {', '.join(found[:3])}"
    if refused:
        return f"image was rejected: {refused[0]}, {where}"
    return f"no such image in the folder: {where}"


def _require_coco(source: str, content: Any) -> dict[str, list[Any]]:
    if not isinstance(content, dict) or "images" not in content:
        raise ValueError(f"{source} is no COCO JSON: it needs an object with the key `images` at the top.")
    sections = {key: content.get(key, []) for key in ("images", "annotations", "categories", "captions")}
    for key, rows in sections.items():
        if not isinstance(rows, list):
            raise ValueError(f"{source} is no COCO JSON: `{key}` must be a list, it is {type(rows).__name__}.")
    return sections


def _image_ids(file_names: list[str], annotated: dict[str, str]) -> list[str]:
    """COCO's id where there is one, else the name without extension where that is unique, else the relative path."""
    stems = {name: PurePosixPath(name).stem for name in file_names if name not in annotated}
    uses = Counter([*stems.values(), *annotated.values()])
    ids = [annotated.get(name) or (stems[name] if uses[stems[name]] == 1 else name) for name in file_names]
    if repeated := [image_id for image_id, count in Counter(ids).items() if count > 1]:
        raise ValueError(f"Two images would get the id {repeated[0]!r}: use other image ids in the annotations.")
    return ids


def _column(images: pd.DataFrame, values: dict[str, list[str]]) -> pd.Series:
    return pd.Series([values.get(name) for name in images["file_name"]], index=images.index, dtype=object)
