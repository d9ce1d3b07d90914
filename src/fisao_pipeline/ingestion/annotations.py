"""COCO instances and captions, joined to the images that were found usable."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from fisao_pipeline.ingestion.names import ImageNames
from fisao_pipeline.ingestion.rejections import Rejection, as_id, as_text, rejections_table

logger = logging.getLogger(__name__)

MANIFEST_COLUMNS = ["image_id", "file_name", "width", "height", "sha256", "objects", "captions"]
# What only the dealing of splits needs, and no artifact holds.
ANNOTATED_COLUMNS = [*MANIFEST_COLUMNS, "pixels", "sources"]
NamedContent = tuple[str, Any]
_NOT_USABLE = -1


def annotate_images(
    images: pd.DataFrame, files: Sequence[NamedContent] | None, refused_images: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Add ids, object names and captions to the usable images.

    Args:
        images: Usable images: ``file_name``, ``width``, ``height``, ``sha256``, ``pixels``.
        files: ``(name, parsed COCO JSON)`` of each annotation file, or None without annotations. The lists in it may
            be any collections that can be iterated more than once, so that large files need not be in memory.
        refused_images: Refused files (column ``name``), to tell a refused image from a missing one.

    Returns:
        The images (``ANNOTATED_COLUMNS``, in the order of ``images``), the refused annotations, and the sorted names
        of all categories that the files declare, seen in an image or not. ``objects`` are the sorted category names
        present: an empty tuple where an image is annotated and empty, None where no instances file lists it.
        ``sources`` are the names of the files that list the image, None where there are none. ``image_id`` is the id
        in the first file that lists it, unless another image has that id already.

    Raises:
        ValueError: A file is no COCO JSON, or files were given and not one of their images is usable.
    """
    join = _Join(images["file_name"], refused_images["name"])
    for name, content in files or ():
        join.add_file(name, content)
    if files and not any(join.sources):
        raise ValueError(
            f"None of the images listed in {', '.join(name for name, _ in files)} is among the {len(images)} usable "
            "images. Do `raw_annotations` and `image_folder` belong together? Set `raw_annotations.filepath: null` in "
            "conf/<env>/catalog.yml for images without annotations."
        )
    ids = _image_ids(list(images["file_name"]), join.image_ids)
    columns = {"objects": join.objects(), "captions": join.captions, "sources": join.sources}
    annotated = images.assign(
        image_id=pd.Series(ids, index=images.index, dtype="str"),
        **{name: pd.Series(values, index=images.index, dtype=object) for name, values in columns.items()},
    )
    return annotated[ANNOTATED_COLUMNS], rejections_table(join.rejections), sorted(join.categories)


class _Join:
    """What all annotation files say about each usable image, and what of it was refused.

    Everything by image is a list in the order of the images, objects as the bits of one number: a million images
    with a set each would take several times the memory.
    """

    def __init__(self, usable: Iterable[str], refused: Iterable[str]) -> None:
        self._usable = ImageNames(usable)
        self._refused = ImageNames(refused)
        self.image_ids: list[str | None] = [None] * len(self._usable)
        self.captions: list[list[str] | None] = [None] * len(self._usable)
        self.sources: list[tuple[str, ...] | None] = [None] * len(self._usable)
        self.categories: dict[str, int] = {}
        self.rejections: list[Rejection] = []
        self._objects: list[int | None] = [None] * len(self._usable)
        self._owners: dict[str, int] = {}
        self._known_sources: dict[tuple[str, ...], tuple[str, ...]] = {}

    def objects(self) -> list[tuple[str, ...] | None]:
        """Return the sorted category names of each image, one tuple for all images that show the same."""
        names = list(self.categories)

        @cache
        def named(bits: int) -> tuple[str, ...]:
            return tuple(sorted(names[bit] for bit in _bits(bits)))

        return [None if bits is None else named(bits) for bits in self._objects]

    def add_file(self, source: str, content: Any) -> None:
        """Read one COCO file: its images first, then what is said about them."""
        coco = _require_coco(source, content)
        files = self._read_images(source, coco["images"])
        categories = self._read_categories(source, coco["categories"])
        for name in categories.values():
            self.categories.setdefault(name, len(self.categories))
        if "categories" in content:
            for row in files.values():
                if row != _NOT_USABLE and self._objects[row] is None:
                    self._objects[row] = 0
        for section in ("annotations", "captions"):
            for row in coco[section]:
                self._read_annotation(source, row, files, categories)

    def _read_images(self, source: str, rows: Collection[Any]) -> dict[str, int]:
        """Map the image ids of one file to usable images; ``_NOT_USABLE`` for a known id whose image is not."""
        meanings = _meanings(rows)
        files: dict[str, int] = {}
        claimed = bytearray(len(self._usable))
        for row in rows:
            image_id, reference = _image_entry(row)
            name = reference or f"{source} image {image_id}"
            if image_id is None or reference is None:
                self._refuse(name, f"image entry without id or file_name: in {source}")
            elif meanings.get(image_id, 1) > 1:
                self._refuse(name, f"ambiguous image id: {image_id} names {meanings[image_id]} images in {source}")
                files[image_id] = _NOT_USABLE
            elif image_id in files:
                self._refuse(name, f"repeated image entry: id {image_id} in {source}")
            else:
                files[image_id] = self._claim(source, image_id, reference, claimed)
        self._name_images(source, files)
        return files

    def _claim(self, source: str, image_id: str, reference: str, claimed: bytearray) -> int:
        """Return the usable image of an image entry, if it is clear."""
        found = self._usable.rows(reference)
        if len(found) != 1:
            names = self._usable.find(reference)
            self._refuse(reference, image_problem(names, self._refused.find(reference), f"listed in {source}"))
            return _NOT_USABLE
        row = found[0]
        if claimed[row]:
            where = f"id {image_id} in {source} is {self._usable[row]} again"
            self._refuse(reference, f"second entry for one image: {where}")
            return _NOT_USABLE
        claimed[row] = True
        listed = (*(self.sources[row] or ()), source)
        self.sources[row] = self._known_sources.setdefault(listed, listed)
        return row

    def _name_images(self, source: str, files: Mapping[str, int]) -> None:
        """Give the images of one file its ids, but none that an earlier file gave to another image.

        COCO's train2017 and val2014 number the same photos alike, and many number theirs from 1 in every file.
        """
        taken = 0
        for image_id, row in files.items():
            if row == _NOT_USABLE:
                continue
            if self._owners.setdefault(image_id, row) != row:
                taken += 1
            elif self.image_ids[row] is None:
                self.image_ids[row] = image_id
        if taken:
            logger.info("%d images of %s have ids of images in earlier files: they go by their names.", taken, source)

    def _read_categories(self, source: str, rows: Collection[Any]) -> dict[str, str]:
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

    def _read_annotation(self, source: str, row: Any, files: dict[str, int], categories: dict[str, str]) -> None:
        row = row if isinstance(row, dict) else {}
        image_id, category_id = as_id(row.get("image_id")), as_id(row.get("category_id"))
        image = files.get(image_id) if image_id is not None else None
        name = f"{source} annotation {as_id(row.get('id'))}"
        if image is None:
            self._refuse(name, f"unknown image id: {image_id}")
            return
        if image == _NOT_USABLE:  # The image entry was refused, with its reason, already.
            return
        caption = as_text(row.get("caption"))
        if caption is not None:
            self._add_caption(image, caption)
        if category_id in categories:
            self._objects[image] = (self._objects[image] or 0) | 1 << self.categories[categories[category_id]]
        elif category_id is not None or caption is None:
            self._refuse(name, f"unknown category: {category_id}" if category_id else "neither category nor caption")

    def _add_caption(self, image: int, caption: str) -> None:
        known = self.captions[image]
        if known is None:
            self.captions[image] = [caption]
        else:
            known.append(caption)

    def _refuse(self, name: str, reason: str) -> None:
        self.rejections.append(Rejection("annotation", name, reason))


def image_problem(found: Sequence[str], refused: Sequence[str], where: str) -> str:
    """Say why a reference does not name exactly one usable image."""
    if found:
        return f"ambiguous image name: {where} it may mean {', '.join(found[:3])}"
    if refused:
        return f"image was rejected: {refused[0]}, {where}"
    return f"no such image in the folder: {where}"


def _require_coco(source: str, content: Any) -> dict[str, Collection[Any]]:
    if not isinstance(content, Mapping) or "images" not in content:
        raise ValueError(f"{source} is no COCO JSON: it needs an object with the key `images` at the top.")
    sections = {key: content.get(key, []) for key in ("images", "annotations", "categories", "captions")}
    for key, rows in sections.items():
        if not isinstance(rows, Collection) or isinstance(rows, Mapping | str):
            raise ValueError(f"{source} is no COCO JSON: `{key}` must be a list, it is {type(rows).__name__}.")
    return sections


def _image_entry(row: Any) -> tuple[str | None, str | None]:
    """Return the id and the file name of an image entry, None for what is not there."""
    return (as_id(row.get("id")), as_text(row.get("file_name"))) if isinstance(row, dict) else (None, None)


def _meanings(rows: Collection[Any]) -> Mapping[str | None, int]:
    """Of each id that stands more than once: how many different images it names."""
    once: set[str | None] = set()
    more: set[str | None] = set()
    for row in rows:
        image_id, _ = _image_entry(row)
        (more if image_id in once else once).add(image_id)
    entries = {entry for entry in map(_image_entry, rows) if entry[0] in more} if more else set()
    return Counter(image_id for image_id, _ in entries)


def _bits(number: int) -> Iterable[int]:
    """Yield the places of the ones in a number, lowest first."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def _image_ids(file_names: list[str], annotated: list[str | None]) -> list[str]:
    """COCO's id where there is one, else the name without extension where that is unique, else the relative path."""
    pairs = zip(file_names, annotated, strict=True)
    short = [PurePosixPath(name).stem if given is None else given for name, given in pairs]
    uses = Counter(short)
    triples = zip(file_names, annotated, short, strict=True)
    ids = [one if given is not None or uses[one] == 1 else name for name, given, one in triples]
    if len(set(ids)) < len(ids):
        repeated = next(image_id for image_id, count in Counter(ids).items() if count > 1)
        raise ValueError(f"Two images would get the id {repeated!r}: use other image ids in the annotations.")
    return ids
