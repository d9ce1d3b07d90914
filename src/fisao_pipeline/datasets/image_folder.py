"""A folder of images, looked at by content, that never reads outside itself and never half replaces itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset, DatasetError
from PIL import Image

from fisao_pipeline.datasets.contents import HashFile, content_of_files
from fisao_pipeline.datasets.image_decoding import MAX_PIXELS, UnreadableImageError, decode_image, pixel_digest
from fisao_pipeline.datasets.publish import Recorded, publish_in_place, restore_interrupted_swap
from fisao_pipeline.suggestions import how_to_bring

SIDECAR_SUFFIXES = frozenset(
    {".json", ".jsonl", ".txt", ".csv", ".tsv", ".xml", ".md", ".yml", ".yaml", ".html", ".parquet"}
)
SIDECAR_NAMES = frozenset({"thumbs.db", "desktop.ini"})
# Hidden, so no scan sees it. Only a folder that holds it may be replaced: photos of a user never do.
OWNED_MARKER = ".written_by_fisao_pipeline"
PROVENANCE_FILE = ".provenance.json"


@dataclass(frozen=True)
class ImageCheck:
    """What a full decode of one file found: size after EXIF rotation, or the reason why it cannot be used.

    ``sha256`` is of the file's bytes, ``pixels`` the digest of the decoded picture (see :func:`pixel_digest`).
    """

    width: int = 0
    height: int = 0
    sha256: str = ""
    pixels: str = ""
    encoding: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class ImageFolder:
    """Images under ``root``, named by relative POSIX paths."""

    root: Path

    def files(self) -> list[str]:
        """Return the sorted names of all candidates: every entry that is not hidden, a real folder or a known sidecar.

        Links and special files are listed too, so that :meth:`check` gives the reason why one cannot be used.
        """
        names: list[str] = []
        for folder, subfolders, files in os.walk(self.root):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            # os.walk does not enter linked folders: naming them here keeps them from vanishing silently.
            linked = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
            # Once a folder, as this is asked of millions of files.
            inside = Path(folder).relative_to(self.root).as_posix()
            inside = "" if inside == "." else f"{inside}/"
            names += [f"{inside}{name}" for name in [*linked, *files] if not _is_hidden_or_sidecar(name)]
        return sorted(names)

    def path(self, file_name: str) -> Path:
        """Return the real path of an image.

        Raises:
            UnreadableImageError: The name leaves the folder (absolute, ``..``, a link out) or is no regular file.
        """
        pure = PurePosixPath(file_name)
        if not file_name or "\0" in file_name or pure.is_absolute() or ".." in pure.parts:
            raise UnreadableImageError("leaves the image folder: names must be relative, without `..`", file_name)
        real = Path(os.path.realpath(self.root / pure))
        if not real.is_relative_to(os.path.realpath(self.root)):
            raise UnreadableImageError("leaves the image folder: it is a link to the outside", file_name)
        if not real.is_file():
            what = "a folder, a broken link or a special file" if os.path.lexists(self.root / pure) else "no such file"
            raise UnreadableImageError(f"not a regular file: {what}", file_name)
        return real

    def open(self, file_name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
        """Decode one image to RGB, EXIF orientation applied (see :func:`decode_image`).

        Raises:
            UnreadableImageError: With the name and the reason.
        """
        path = self.path(file_name)
        try:
            with path.open("rb") as stream:
                if path.stat().st_size == 0:
                    raise UnreadableImageError("empty file: it has no bytes")
                return decode_image(stream, max_pixels)
        except UnreadableImageError as error:
            raise UnreadableImageError(error.reason, file_name) from error
        except OSError as error:
            raise UnreadableImageError(f"cannot be read: {error.strerror}", file_name) from error

    def check(self, file_name: str, max_pixels: int = MAX_PIXELS) -> ImageCheck:
        """Decode one file in full and hash its bytes; a file that cannot be used is an answer, not an exception."""
        try:
            image = self.open(file_name, max_pixels)
            with self.path(file_name).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except UnreadableImageError as error:
            return ImageCheck(reason=error.reason)
        return ImageCheck(image.width, image.height, digest, pixel_digest(image), encoding=image.format or "")


class ImageFolderDataset(Recorded, AbstractDataset[Iterable[tuple[str, Image.Image | bytes]], ImageFolder]):
    """A folder of images on this machine's file system.

    Loads an :class:`ImageFolder`. Saves an iterable of ``(file_name, PIL image or encoded bytes)`` by replacing the
    folder as a whole; a folder that this class did not write is never replaced.

    Example:
        .. code-block:: yaml

            image_folder:
              type: fisao_pipeline.datasets.image_folder.ImageFolderDataset
              filepath: data/01_raw/my_photos
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Name the folder; nothing is read until load.

        Args:
            filepath: The folder, nested folders allowed.
            metadata: For Kedro-Viz and other plugins, not read here.
        """
        self._folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> ImageFolder:
        """Return the folder.

        Raises:
            DatasetError: There is no such folder; the message says how to get one.
        """
        restore_interrupted_swap(self._folder)
        if not self._folder.is_dir():
            found = "is a file, not a folder" if self._folder.exists() else "does not exist"
            remedy = how_to_bring(self._folder, "`image_folder.filepath`")
            raise DatasetError(f"Image folder {self._folder} {found}. {remedy}")
        return ImageFolder(self._folder)

    def save(self, data: Iterable[tuple[str, Image.Image | bytes]]) -> None:
        """Write all images into a sibling folder, then swap it in.

        Raises:
            DatasetError: The folder holds files that this class did not write.
            UnreadableImageError: A name leaves the folder.
        """
        self._refuse_foreign_folder()
        with publish_in_place(self._folder) as fresh:
            fresh.mkdir()
            (fresh / OWNED_MARKER).touch()
            for file_name, image in data:
                _write_image(fresh, file_name, image)
            self._record(fresh, fresh / PROVENANCE_FILE)

    def content(self, hash_file: HashFile, at: Path | None = None) -> str:
        """What tells the folder's images from any others: their names and bytes.

        Args:
            hash_file: Hashes a file.
            at: A folder that is looked at instead of the entry's.

        Raises:
            DatasetError: There is no such folder.
        """

        def hash_image(path: Path) -> str:
            try:
                return hash_file(path)
            except OSError:
                return "unreadable"  # which ingestion lists by name, and goes on

        folder = ImageFolder(at) if at is not None else self.load()
        return content_of_files({name: folder.root / name for name in folder.files()}, hash_image)

    def provenance_path(self, _version: str | None = None) -> Path:
        """Inside the folder, hidden, since there is only one."""
        return self._folder / PROVENANCE_FILE

    def _refuse_foreign_folder(self) -> None:
        if not os.path.lexists(self._folder):
            return
        owned = self._folder.is_dir() and not self._folder.is_symlink()
        if owned and ((self._folder / OWNED_MARKER).exists() or not any(self._folder.iterdir())):
            return
        raise DatasetError(
            f"{self._folder} holds files that were not written by this pipeline and is left as it is. "
            "Point `image_folder.filepath` to another folder, or move this one away."
        )

    def _exists(self) -> bool:
        return self._folder.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}


def _is_hidden_or_sidecar(name: str) -> bool:
    return name.startswith(".") or name.lower() in SIDECAR_NAMES or Path(name).suffix.lower() in SIDECAR_SUFFIXES


def _write_image(root: Path, file_name: str, image: Image.Image | bytes) -> None:
    pure = PurePosixPath(file_name)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts:
        raise UnreadableImageError("leaves the image folder: names must be relative, without `..`", file_name)
    path = root / pure
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        image.save(path, quality=95)  # Only lossy formats read it; their default of 75 smears small objects.
