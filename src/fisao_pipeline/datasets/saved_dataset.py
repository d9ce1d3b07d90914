"""A Hugging Face data set saved with ``save_to_disk``, read from its Arrow files as they are, an image at a time.

The files are Arrow streams with two JSON files beside them, so pyarrow, which pandas needs anyway, reads them; the
``datasets`` library is not needed, and no code of a data set is run.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from kedro.io import AbstractDataset, DatasetError
from PIL import Image

from fisao_pipeline.datasets.contents import HashFile, content_of_files
from fisao_pipeline.datasets.image_decoding import MAX_PIXELS, UnreadableImageError, decode_image, pixel_digest
from fisao_pipeline.datasets.image_folder import ImageCheck
from fisao_pipeline.datasets.json_files import JsonFile

_SPLITS_FILE = "dataset_dict.json"
_STATE_FILE = "state.json"


@dataclass(frozen=True)
class SavedRows:
    """The rows of a saved data set, each with a name that the images and the prompts of a row share.

    A name is the number of the row, eight digits, or the value of ``name_column``; in a data set of several splits
    ``<split>/<name>``, so that a split is what a folder is to files.
    """

    root: Path
    name_column: str | None = None

    @cached_property
    def tables(self) -> dict[str, pa.Table]:
        """The tables by the prefix of their names; their content stays on disk until it is looked at."""
        if not self.root.is_dir():
            raise DatasetError(
                f"Saved data set {self.root} does not exist. Write it with `dataset.save_to_disk(folder)` of the "
                "`datasets` library, and set `filepath` of this entry in conf/<env>/catalog.yml to that folder."
            )
        if not (self.root / _SPLITS_FILE).is_file():
            return {"": self._table(self.root)}
        splits = _read_json(self.root / _SPLITS_FILE, "splits")
        return {f"{split}/": self._table(_inside(self.root, split)) for split in splits}

    @cached_property
    def places(self) -> dict[str, tuple[str, int]]:
        """The prefix and the row of each name, in the order of the data set."""
        places: dict[str, tuple[str, int]] = {}
        for prefix, table in self.tables.items():
            for row, own in enumerate(self._own_names(table)):
                name = prefix + own
                if name in places:
                    raise DatasetError(
                        f"{self.root}: two rows are named {name!r}. Set `name_column` of this entry to a column that "
                        "differs in every row, or leave it out to number the rows."
                    )
                places[name] = (prefix, row)
        return places

    def content(self, hash_file: HashFile, column: str) -> str:
        """What tells the files of the data set, read by this column, from any others."""
        files = {path.relative_to(self.root).as_posix(): path for path in self.root.rglob("*") if path.is_file()}
        return content_of_files(files, hash_file, f"{column} {self.name_column}")

    def column(self, name: str) -> dict[str, pa.ChunkedArray]:
        """Return one column by prefix.

        Raises:
            DatasetError: A split lacks it; the message lists what there is.
        """
        for prefix, table in self.tables.items():
            if name not in table.column_names:
                where = f"{self.root / prefix}"
                raise DatasetError(f"{where} has no column {name!r}, it has {', '.join(table.column_names)}.")
        return {prefix: table.column(name) for prefix, table in self.tables.items()}

    def _own_names(self, table: pa.Table) -> Iterator[str]:
        if self.name_column is None:
            yield from (f"{row:08d}" for row in range(table.num_rows))
            return
        self.column(self.name_column)
        for value in table.column(self.name_column):
            name = str(value.as_py())
            parts = PurePosixPath(name).parts
            if (
                not value.is_valid
                or "\0" in name
                or ".." in parts
                or "/".join(parts) != name
                or not parts
                or parts[0] == "/"
            ):
                raise DatasetError(
                    f"{self.root}: the column {self.name_column!r} holds {name!r}, which is no relative name. Set "
                    "`name_column` of this entry to another column, or leave it out to number the rows."
                )
            yield name

    def _table(self, folder: Path) -> pa.Table:
        if not (folder / _STATE_FILE).is_file():
            raise DatasetError(
                f"{folder} is no data set saved with `save_to_disk`: it holds no {_STATE_FILE}. (What "
                "`load_dataset` keeps in its cache is another format: load it there and save it to disk.)"
            )
        files = [entry.get("filename") for entry in _read_json(folder / _STATE_FILE, "_data_files")]
        return pa.concat_tables([_read_arrow(_inside(folder, name)) for name in files])


@dataclass(frozen=True)
class SavedImages:
    """The images of a saved data set, used like an ``ImageFolder``."""

    rows: SavedRows
    images: dict[str, pa.ChunkedArray]

    @property
    def root(self) -> Path:
        """The folder of the data set, for messages."""
        return self.rows.root

    def files(self) -> list[str]:
        """Return the sorted names of all rows."""
        return sorted(self.rows.places)

    def open(self, file_name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
        """Decode one image to RGB, EXIF orientation applied.

        Raises:
            UnreadableImageError: With the name and the reason.
        """
        try:
            return decode_image(io.BytesIO(self._bytes(file_name)), max_pixels)
        except UnreadableImageError as error:
            raise UnreadableImageError(error.reason, file_name) from error

    def check(self, file_name: str, max_pixels: int = MAX_PIXELS) -> ImageCheck:
        """Decode one image in full and hash its bytes; an image that cannot be used is an answer, not an exception."""
        try:
            content = self._bytes(file_name)
            image = decode_image(io.BytesIO(content), max_pixels)
        except UnreadableImageError as error:
            return ImageCheck(reason=error.reason)
        digest = hashlib.sha256(content).hexdigest()
        return ImageCheck(image.width, image.height, digest, pixel_digest(image), encoding=image.format or "")

    def _bytes(self, file_name: str) -> bytes:
        if file_name not in self.rows.places:
            raise UnreadableImageError("no such row: the data set holds no image of this name")
        prefix, row = self.rows.places[file_name]
        value = self.images[prefix][row].as_py()
        if value is None:
            raise UnreadableImageError("empty row: it holds no image")
        if value["bytes"] is None:
            # Its path may lead anywhere on the machine where the data set was made, or on this one.
            raise UnreadableImageError("image not in the data set: the row holds a path only, save it with its images")
        if not value["bytes"]:
            raise UnreadableImageError("empty file: it has no bytes")
        return value["bytes"]


class SavedRowsAsPrompts(Collection[dict[str, Any]]):
    """One prompts row for each row of a saved data set, read when it is asked for."""

    def __init__(self, rows: SavedRows, prompts: dict[str, pa.ChunkedArray], field: str) -> None:
        """Take the column of the prompts by prefix, and the key that its values get."""
        self._rows, self._prompts, self._field = rows, prompts, field

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for name, (prefix, row) in self._rows.places.items():
            yield {"prompt_id": name, "image": name, self._field: self._prompts[prefix][row].as_py()}

    def __len__(self) -> int:
        return len(self._rows.places)

    def __contains__(self, row: object) -> bool:
        return any(row == own for own in self)


class SavedImagesDataset(AbstractDataset[None, SavedImages]):
    """The images of a Hugging Face data set on disk, in place of an image folder. Read only.

    Example:
        .. code-block:: yaml

            image_folder:
              type: fisao_pipeline.datasets.saved_dataset.SavedImagesDataset
              filepath: data/01_raw/my_data_set      # written by dataset.save_to_disk(...)
              image_column: image
    """

    def __init__(
        self,
        *,
        filepath: str,
        image_column: str = "image",
        name_column: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Name the folder; nothing is read until load.

        Args:
            filepath: The folder that ``save_to_disk`` wrote, of one split or of several.
            image_column: A column of the feature ``Image``.
            name_column: Names of the images, different in every row of a split; None to number them.
            metadata: For Kedro-Viz and other plugins, not read here.
        """
        self._rows = SavedRows(Path(filepath), name_column)
        self._image_column = image_column
        self.metadata = metadata

    def load(self) -> SavedImages:
        """Open the data set; images are read when they are asked for.

        Raises:
            DatasetError: No such data set or column, or the column holds no images.
        """
        rows = SavedRows(self._rows.root, self._rows.name_column)
        images = rows.column(self._image_column)
        for prefix, column in images.items():
            fields = [field.name for field in column.type] if pa.types.is_struct(column.type) else []
            if "bytes" not in fields:
                where = f"{rows.root / prefix}"
                raise DatasetError(
                    f"{where}: the column {self._image_column!r} holds {column.type}, no images. Set `image_column` of "
                    "this entry, or cast the column with `dataset.cast_column(name, datasets.Image())` and save it."
                )
        return SavedImages(rows, images)

    def save(self, data: None) -> None:
        """Refuse: data sets of others are never written to.

        Raises:
            DatasetError: Always.
        """
        raise DatasetError("A saved data set is read only.")

    def content(self, hash_file: HashFile) -> str:
        """What tells the data set from any other.

        Raises:
            OSError: It cannot be read.
        """
        return self._rows.content(hash_file, self._image_column)

    def _exists(self) -> bool:
        return self._rows.root.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._rows.root), "image_column": self._image_column}


class SavedPromptsDataset(AbstractDataset[None, list[JsonFile]]):
    """The prompts of a Hugging Face data set on disk, in place of a prompts file. Read only.

    Example:
        .. code-block:: yaml

            raw_prompts:
              type: fisao_pipeline.datasets.saved_dataset.SavedPromptsDataset
              filepath: data/01_raw/my_data_set      # the same as `image_folder`, and the same `name_column`
              prompt_column: question                # text, or LLaVA's conversations
    """

    def __init__(
        self,
        *,
        filepath: str,
        prompt_column: str,
        name_column: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Name the folder; nothing is read until load.

        Args:
            filepath: The folder that ``save_to_disk`` wrote.
            prompt_column: A column of texts, or of lists of turns with ``from`` and ``value``.
            name_column: As in the entry of the images.
            metadata: For Kedro-Viz and other plugins, not read here.
        """
        self._rows = SavedRows(Path(filepath), name_column)
        self._prompt_column = prompt_column
        self.metadata = metadata

    def load(self) -> list[JsonFile]:
        """Open the data set as one file of prompts, named like its folder.

        Raises:
            DatasetError: No such data set or column, or the column holds neither texts nor turns.
        """
        rows = SavedRows(self._rows.root, self._rows.name_column)
        prompts = rows.column(self._prompt_column)
        fields = {_prompt_field(column.type) for column in prompts.values()}
        if len(fields) != 1 or None in fields:
            kinds = " and ".join(sorted({str(column.type) for column in prompts.values()}))
            raise DatasetError(
                f"{rows.root}: the column {self._prompt_column!r} holds {kinds}, no texts and no lists of turns. Set "
                "`prompt_column` of this entry."
            )
        return [JsonFile(rows.root.name, SavedRowsAsPrompts(rows, prompts, str(fields.pop())))]

    def save(self, data: None) -> None:
        """Refuse: data sets of others are never written to.

        Raises:
            DatasetError: Always.
        """
        raise DatasetError("A saved data set is read only.")

    def content(self, hash_file: HashFile) -> str:
        """What tells the data set from any other.

        Raises:
            OSError: It cannot be read.
        """
        return self._rows.content(hash_file, self._prompt_column)

    def _exists(self) -> bool:
        return self._rows.root.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._rows.root), "prompt_column": self._prompt_column}


def _prompt_field(kind: pa.DataType) -> str | None:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "prompt"
    return "conversations" if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None


def _inside(folder: Path, name: Any) -> Path:
    """Return the path of an entry of a folder that a file in it names, if it is one."""
    plain = isinstance(name, str) and PurePosixPath(name).parts == (name,) and name not in {"..", "/"}
    if not plain or "\0" in name or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise DatasetError(f"{folder}: {name!r} in its JSON files is no entry of this folder. Save the data set anew.")
    return folder / name


def _read_json(path: Path, key: str) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))[key]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f"{path} is damaged: it is no JSON object with `{key}`. Save the data set anew.") from error
    wanted = str if key == "splits" else dict
    if not isinstance(rows, list) or not rows or not all(isinstance(row, wanted) for row in rows):
        raise DatasetError(f"{path} is damaged: `{key}` is no list of entries. Save the data set anew.")
    return rows


def _read_arrow(path: Path) -> pa.Table:
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_stream(source).read_all()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DatasetError(f"{path} cannot be read as an Arrow stream: {reason}. Save the data set anew.") from error
