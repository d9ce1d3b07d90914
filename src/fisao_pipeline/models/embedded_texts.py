"""Embeddings of texts that outlive a process: what one run has embedded, the next one reads."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
import transformers
from torch import Tensor

from fisao_pipeline.models.source import ModelSource, identity
from fisao_pipeline.models.tensor_file import TensorFile

logger = logging.getLogger(__name__)

# Of one verifier: 40 MB at 512 numbers each. The oldest go first.
MOST_TEXTS = 20_000
# Longer ones are whole responses, which are seldom given twice.
LONGEST_TEXT = 200


class TensorStore(Protocol):
    """Tensor files by key; what was put is there whole or not at all."""

    def get(self, key: str) -> TensorFile | None:
        """The file, None when there is none."""

    def put(self, key: str, value: TensorFile) -> None:
        """Keep a file in place of the one that is there."""

    def claim(self, key: str, wait: bool = False) -> AbstractContextManager[bool]:
        """Keep other processes from claiming the same key."""


class EmbeddedTexts:
    """The texts that one verifier has embedded, in a store that may hold other verifiers' as well.

    It is a memory and nothing hangs on it: what cannot be read or kept is said once and done without.
    """

    def __init__(self, store: TensorStore, key: str):
        self.store, self.key = store, key

    def read(self, embed: Callable[[str], Tensor]) -> tuple[dict[str, Tensor], set[str]]:
        """Embeddings by text, and the texts among them that were cut.

        Args:
            embed: Embeds a text. The first one that is there is embedded anew: a file in which it has other bits is of
                another model, machine or library, and is not used.
        """
        try:
            embeddings, cut = self._load()
            text, kept = next(iter(embeddings.items()), ("", None))
            if kept is not None and not torch.equal(embed(text), kept):
                raise ValueError(f"{text!r} is embedded otherwise by this verifier on this machine")
        except Exception as error:  # whatever is wrong with it, texts can be embedded again
            logger.warning("The embedded texts %s cannot be used and are made again: %s", self.key, error)
            # So that ours are not put beside them later.
            self._attempt(lambda: self.store.put(self.key, _file({}, set())))
            return {}, set()
        return embeddings, cut

    def add(self, embeddings: Mapping[str, Tensor], cut: set[str]) -> None:
        """Keep texts beside those that this or another process has kept."""
        short = {text: tensor for text, tensor in embeddings.items() if len(text) <= LONGEST_TEXT}
        if short:
            self._attempt(lambda: self._merge(short, cut))

    def _merge(self, embeddings: dict[str, Tensor], cut: set[str]) -> None:
        with self.store.claim(self.key, wait=True):
            there, cut_there = self._load()
            merged = list((there | embeddings).items())[-MOST_TEXTS:]
            self.store.put(self.key, _file(dict(merged), cut | cut_there))

    def _load(self) -> tuple[dict[str, Tensor], set[str]]:
        file = self.store.get(self.key)
        if file is None:
            return {}, set()
        rows = file.tensors.get("embeddings", torch.zeros(0, 0))
        if not torch.isfinite(rows).all():
            raise ValueError("an embedding is NaN or infinite")
        return dict(zip(file.values["texts"], rows, strict=True)), set(file.values["cut"])

    def _attempt(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # a full or read-only disk, which ends the run where it matters
            logger.warning("Embedded texts are not kept: %s", error)


def embedded_texts(
    store: TensorStore, source: ModelSource, revision: str | None, device: torch.device
) -> EmbeddedTexts:
    """The memory of a verifier: of its weights, and of all else that decides on the bits of an embedding.

    A text stands in it as the verifier was given it, with the template around the words.

    Args:
        store: Holds the files.
        source: The verifier.
        revision: Commit that a hub's model was loaded from, where it is known; a branch moves.
        device: Where it computes.
    """
    where = (
        f"{torch.cuda.get_device_name(device)}" if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    )
    # The number of threads decides how sums are split up.
    machine = (device.type, where, torch.get_num_threads(), torch.__version__, transformers.__version__)
    parts = (identity(source), revision, source.dtype, source.options, machine)
    return EmbeddedTexts(
        store, hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    )


def _file(embeddings: Mapping[str, Tensor], cut: set[str]) -> TensorFile:
    tensors = {"embeddings": torch.stack(list(embeddings.values()))} if embeddings else {}
    return TensorFile(tensors, {"texts": list(embeddings), "cut": sorted(cut & set(embeddings))})
