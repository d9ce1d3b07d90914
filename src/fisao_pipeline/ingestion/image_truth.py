"""What annotation files say of images that nobody has to have: objects and reference captions by image id."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from fisao_pipeline.ingestion.annotations import NamedContent
from fisao_pipeline.ingestion.names import ImageNames
from fisao_pipeline.ingestion.rejections import Rejection, as_id, as_text

_LAST_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass
class ImageTruth:
    """Ground truth by image id.

    Attributes:
        objects: Distinct category names of each image that an instances file lists, in the order of the annotations.
        captions: Reference captions of each image that has some.
        file_names: Id of each file name that the files list.
        categories: Names of the categories that the files declare, or None where a file has no list of them.
        rejections: Rows that could not be used.
    """

    objects: dict[str, list[str]] = field(default_factory=dict)
    captions: dict[str, list[str]] = field(default_factory=dict)
    file_names: dict[str, str] = field(default_factory=dict)
    categories: set[str] | None = field(default_factory=set)
    rejections: list[Rejection] = field(default_factory=list)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.objects or image_id in self.captions


def read_truth(files: Sequence[NamedContent]) -> ImageTruth:
    """Read COCO instances or captions files, or objects of ``{image id: [category names]}``.

    Args:
        files: ``(name, parsed JSON)`` of each; lists may be any collections.

    Raises:
        ValueError: A file is neither.
    """
    truth = ImageTruth()
    for source, content in files:
        if isinstance(content, Mapping) and "images" in content:
            _read_coco(source, content, truth)
        elif isinstance(content, Mapping) and content and all(_is_list(names) for names in content.values()):
            truth.categories = None
            for image_id, names in content.items():
                truth.objects.setdefault(image_id, []).extend(dict.fromkeys(map(str, names)))
        else:
            raise ValueError(
                f"{source} holds no annotations: it needs a COCO JSON (an object with the key `images`), or an object "
                "of image ids, each with the list of its objects"
            )
    return truth


def _is_list(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str | Mapping)


def _read_coco(source: str, content: Mapping[str, Any], truth: ImageTruth) -> None:
    sections = {key: content.get(key, []) for key in ("images", "annotations", "categories")}
    for key, rows in sections.items():
        if not _is_list(rows):
            raise ValueError(f"{source} is no COCO JSON: `{key}` must be a list, it is {type(rows).__name__}")
    listed: set[str] = set()
    for row in _dicts(sections["images"]):
        image_id, name = as_id(row.get("id")), as_text(row.get("file_name"))
        if image_id is not None:
            listed.add(image_id)
            if name is not None:
                truth.file_names[name] = image_id
    names = {as_id(row.get("id")): as_text(row.get("name")) for row in _dicts(sections["categories"])}
    if names:
        # An image without an annotation of an instances file shows none of its categories.
        for image_id in listed:
            truth.objects.setdefault(image_id, [])
        if truth.categories is not None:
            truth.categories.update(name for name in names.values() if name)
    for row in _dicts(sections["annotations"]):
        _read_annotation(source, row, listed, names, truth)


def _read_annotation(
    source: str, row: Mapping[str, Any], listed: set[str], names: Mapping[str | None, str | None], truth: ImageTruth
) -> None:
    image_id, caption = as_id(row.get("image_id")), as_text(row.get("caption"))
    category = names.get(as_id(row.get("category_id")))
    if image_id not in listed:
        reason = f"unknown image id: {image_id}"
    elif caption is None and category is None:
        reason = "neither a known category nor a caption"
    else:
        if caption is not None:
            truth.captions.setdefault(image_id, []).append(caption)
        if category is not None and category not in truth.objects[image_id]:
            truth.objects[image_id].append(category)
        return
    truth.rejections.append(Rejection("annotation", f"{source} annotation {as_id(row.get('id'))}", reason))


def _dicts(rows: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    return (row for row in rows if isinstance(row, Mapping))


def id_reader(image_ids: str, truth: ImageTruth) -> Callable[[Any], str | None]:
    """How the image of a prediction is found; the function gives None where no annotated image is meant.

    Args:
        image_ids: ``id``: the annotations' id. ``file_name``: a file name or path, looked up among those that the
            annotations list. ``coco_number``: the last number of a name, as in COCO_val2014_000000226988.jpg.
        truth: The annotations.

    Raises:
        ValueError: ``file_name`` with annotations that list none.
    """
    if image_ids == "id":
        return lambda value: _known(as_id(value), truth)
    if image_ids == "coco_number":
        return lambda value: _known(_number(value), truth)
    if not truth.file_names:
        raise ValueError("image_ids 'file_name': the annotation files list no file names; set it to 'coco_number'")
    listed = list(truth.file_names)
    names = ImageNames(listed)

    def by_name(value: Any) -> str | None:
        name = as_text(value)
        ids = {truth.file_names[listed[row]] for row in names.rows(name)} if name is not None else set()
        return _known(ids.pop(), truth) if len(ids) == 1 else None

    return by_name


def _number(value: Any) -> str | None:
    text = as_id(value)
    found = _LAST_NUMBER.search(PurePosixPath(text).stem) if text is not None else None
    return str(int(found[1])) if found and len(found[1]) < 20 else None


def _known(image_id: str | None, truth: ImageTruth) -> str | None:
    return image_id if image_id is not None and image_id in truth else None
