"""A pretrained model as a catalog entry: loading checks that it is here, saving replaces its folder in one step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from fisao_pipeline.datasets.contents import HashFile
from fisao_pipeline.datasets.preview import of_json
from fisao_pipeline.datasets.publish import Recorded, publish_in_place, restore_interrupted_swap
from fisao_pipeline.models.source import (
    CONFIG_FILE,
    DTYPES,
    QUANTIZATIONS,
    ModelNotFoundError,
    ModelSource,
    find_model,
    fingerprint,
    is_commit,
    missing_model_files,
    pickled_weights,
)
from fisao_pipeline.params.flat import masked

PROVENANCE_FILE = "provenance.json"


class ModelFolderDataset(Recorded, AbstractDataset[Callable[[Path], None], ModelSource]):
    """Loads a `ModelSource` for a model folder or a hub id; saves a folder from a function that writes into it.

    ```yaml
    policy_backbone:
      type: fisao_pipeline.datasets.ModelFolderDataset
      filepath: data/06_models/pocket_vlm   # or, instead: hub_id: llava-hf/llava-1.5-7b-hf, revision: …
      dtype: float32
      device: cpu
      options: {model: {attn_implementation: eager}, processor: {max_pixels: 501760}}
      quantization: nf4   # of a policy, needs bitsandbytes; left out: weights as `dtype` says
    ```

    It is not versioned by Kedro: a hub model is pinned by its revision, a folder is identified by its content.
    """

    def __init__(
        self,
        *,
        filepath: str | None = None,
        hub_id: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        options: Mapping[str, Any] | None = None,
        allow_download: bool = False,
        quantization: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Name the model.

        Args:
            filepath: A local folder (Kedro makes it absolute). Give this or `hub_id`.
            hub_id: An id on the Hugging Face hub, taken from the local cache.
            revision: Commit, branch or tag on the hub.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            device: `auto`, `cpu`, `cuda`, …
            options: Passed to transformers: `model` and `processor`, each a mapping of arguments of `from_pretrained`.
            allow_download: Whether loading may download a hub model that is not cached.
            quantization: `nf4` keeps the language tower's linear layers in 4 bits.
            metadata: Ignored here, read by Kedro-Viz.

        Raises:
            DatasetError: Neither or both of `filepath` and `hub_id` given, a revision of a folder, or an unknown dtype
                or quantization.
        """
        if (filepath is None) == (hub_id is None):
            raise DatasetError("A model has either a 'filepath' (a folder) or a 'hub_id', not both and not neither.")
        if filepath is not None and (revision is not None or allow_download):
            raise DatasetError("'revision' and 'allow_download' belong to a 'hub_id'; a folder is what it holds.")
        if dtype not in DTYPES:
            raise DatasetError(f"'dtype' {dtype!r} is not known: there are {', '.join(DTYPES)}.")
        if quantization is not None and quantization not in QUANTIZATIONS:
            known = ", ".join(QUANTIZATIONS)
            raise DatasetError(f"'quantization' {quantization!r} is not known: there is {known}, or leave it out.")
        self._folder = Path(filepath).expanduser() if filepath is not None else None
        self._source = ModelSource(
            str(self._folder or hub_id), revision, dtype, device, allow_download, dict(options or {}), quantization
        )
        self._allow_download = allow_download
        self.metadata = metadata

    @property
    def source(self) -> ModelSource:
        """The model that the entry names, whether it is here or not."""
        return self._source

    def found(self) -> Path | None:
        """The folder that the model is in on this machine, None where it is not."""
        try:
            return self._find()
        except DatasetError:
            return None

    def missing_files(self) -> list[str]:
        """What a model that is here lacks to be loaded; nothing for one that is still to be downloaded.

        Raises:
            DatasetError: It is not here at all.
        """
        folder = self._find()
        return missing_model_files(folder) if folder is not None else []

    @property
    def is_folder(self) -> bool:
        """Whether the entry names a folder, and no hub model."""
        return self._folder is not None

    @property
    def unpinned(self) -> str | None:
        """What a hub model may change with, the name of a branch or tag; None for a folder and for a commit."""
        if self._folder is not None or is_commit(self._source.revision):
            return None
        return self._source.revision or "main"

    def pickled_weights(self) -> list[str]:
        """Pickles among the files of a model that is here."""
        folder = self._find()
        return pickled_weights(folder) if folder is not None else []

    def load(self) -> ModelSource:
        """Check that the model is here and say how to load it.

        Raises:
            DatasetError: It is not; the message says how to get it.
        """
        self._find()
        return self._source

    def save(self, data: Any) -> None:
        """Replace the folder by what a function, or an object with `save_pretrained`, writes into a new one.

        Args:
            data: `write(folder)`, called with an existing empty folder, or an object with `save_pretrained(folder)`.

        Raises:
            DatasetError: The entry is a hub id, nothing was written, or writing failed; the folder is untouched then.
        """
        if self._folder is None:
            raise DatasetError(f"'{self._source.path_or_id}' is a hub id; give a 'filepath' to save a model.")
        write = getattr(data, "save_pretrained", data)
        with publish_in_place(self._folder) as staged:
            staged.mkdir()
            write(staged)
            if not (staged / CONFIG_FILE).is_file():
                raise DatasetError(f"What was written for '{self._folder}' holds no {CONFIG_FILE}: not a saved model.")
            self._record(staged, staged / PROVENANCE_FILE)

    def resolve_load_version(self) -> str | None:
        """What identifies the weights: a fingerprint of the folder, or the commit of a hub model that is cached."""
        folder = self._find()
        if self._folder is None:
            return folder.name if folder is not None else self._source.revision
        return fingerprint(self._folder)

    def resolve_save_version(self) -> str | None:
        """The fingerprint of what was saved."""
        return self.resolve_load_version()

    def content(self, hash_file: HashFile, at: Path | None = None) -> str:
        """What identifies the weights, and in what they are loaded: another type or option gives other answers.

        Records and logs have it, so what could be a secret among the options is not in it.

        Args:
            hash_file: Not needed, see `fingerprint`.
            at: A folder that is looked at instead of the entry's.

        Raises:
            DatasetError: The model is not here.
        """
        loaded = [self._source.dtype, self._source.quantization, masked(self._source.options)]
        version = fingerprint(at) if at is not None else self.resolve_load_version()
        return f"{version} {json.dumps(loaded, sort_keys=True, default=str)}"

    def provenance_path(self, version: str) -> Path | None:
        """Inside the folder, since there is only one; it does not count for the fingerprint."""
        return self._folder / PROVENANCE_FILE if self._folder is not None else None

    def glimpse(self) -> list[str]:
        """Architecture and size of the model."""
        folder = self._find()
        if folder is None:
            return of_json({"hub_id": self._source.path_or_id, "downloaded": False})
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        about = {
            "architecture": (config.get("architectures") or [None])[0],
            "model_type": config.get("model_type"),
            "parameters": _count_parameters(folder),
        }
        return of_json(about)

    def _find(self) -> Path | None:
        if self._folder is not None:
            restore_interrupted_swap(self._folder)
        try:
            return find_model(self._source.path_or_id, self._source.revision, self._allow_download)
        except ModelNotFoundError as error:
            raise DatasetError(str(error)) from error

    def _exists(self) -> bool:
        return self.found() is not None

    def _describe(self) -> dict[str, Any]:
        source = self._source
        place = {"filepath": self._folder} if self._folder is not None else {"hub_id": source.path_or_id}
        loaded = {"dtype": source.dtype, "device": source.device, "quantization": source.quantization}
        return {**place, "revision": source.revision, **loaded}


def _count_parameters(folder: Path) -> int | None:
    """Count from the headers of the safetensors files, without reading the weights."""
    files = sorted(folder.glob("*.safetensors"))
    return sum(_count_in_file(file) for file in files) if files else None


def _count_in_file(file: Path) -> int:
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            count = 1
            for length in tensor["shape"]:
                count *= length
            total += count
    return total
