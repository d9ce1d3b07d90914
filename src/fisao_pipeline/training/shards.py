"""Long answering kept part by part: a run that was killed goes on where it was, to the very same table."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd
from tqdm.auto import tqdm

from fisao_pipeline.libraries import library_versions
from fisao_pipeline.models.source import ModelSource, fingerprint, loaded_identity
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams

logger = logging.getLogger(__name__)

# Another version of these rounds otherwise, so that a table of parts of both would be that of neither.
_LIBRARIES = ("torch", "transformers", "peft")
# Changed between a run that was killed and the next, these leave the answers as they are.
_OF_FIGURES = {"vocabulary", "word_chain", "bootstrap_resamples", "confidence", "drop_unfinished_sentence", "examples"}
# Part of a part's own key, and of nothing that is answered.
SHARD_SIZE = {"responses_per_shard"}
_DIGITS = 16

Row = dict[str, Any]
Value = TypeVar("Value")


class Store(Protocol[Value]):
    """Values by key; what was put is kept at once and whole."""

    def get(self, key: str) -> Value | None:
        """The value, None when there is none."""

    def put(self, key: str, value: Value) -> None:
        """Keep a value."""

    def keys(self) -> list[str]:
        """Keys of all values."""

    def remove(self, key: str) -> None:
        """Remove a value."""


@dataclass(frozen=True)
class Shards:
    """Where finished parts of a table are kept, and under which names.

    Attributes:
        store: Holds the parts.
        owner: Tells whose answers to what they are, see `shard_owners` and `sampling_owner`. Every key begins with it.
        rows: Rows of a part: it ends with the batch in which there are as many.
        code: Tells the code that answers from any other: what another has answered is not gone on with.
    """

    store: Store[pd.DataFrame]
    owner: str
    rows: int
    code: str = ""

    def key(self, first: int, settings: str) -> str:
        """Name of the part that begins with a batch of this number, of a table that is made with these settings."""
        return f"{self.owner}-{digest(settings, self.rows, self.code)}-{first:06d}"

    def read(self, key: str) -> pd.DataFrame | None:
        """What is kept under a key; None where there is nothing, or, with a warning, nothing that can be read."""
        try:
            return self.store.get(key)
        except Exception as error:  # whatever is wrong with a file, what is answered again is written over it
            logger.warning("The kept part %s cannot be read and is answered again: %s", key, error)
            return None


def shard_owners(
    backbone: ModelSource, adapter: Path | None, manifest: pd.DataFrame, params: BenchmarkEvaluationParams
) -> dict[str, str]:
    """What the keys of each model's answers in one evaluation begin with; the base model's do not hang on the adapter.

    The weights, how they are loaded and on which kind of device, the adapter, the pictures (by the manifest's hashes),
    what the evaluation asks and how, and the libraries.

    Args:
        backbone: The base model.
        adapter: PEFT folder of the aligned model; None where only the base model answers.
        manifest: The ``image_manifest``.
        params: Of the evaluation; what only its figures hang on does not count.
    """
    shared = _answering(backbone, manifest, params.model_dump(mode="json", exclude=_OF_FIGURES))
    adapted = fingerprint(adapter) if adapter is not None else None
    return {"base": digest(shared), "aligned": digest(shared, adapted)}


def sampling_owner(backbone: ModelSource, manifest: pd.DataFrame, params: ResponseSamplingParams) -> str:
    """What the keys of the sampling stage's parts begin with; prompts are told apart by each table's own settings."""
    settings = params.model_dump(mode="json", exclude=SHARD_SIZE)
    return digest("sampling", _answering(backbone, manifest, settings, params.sampler))


def library_versions_of_results(sampler: str = "in_process") -> dict[str, str | None]:
    """Versions of the libraries that round results otherwise in another version: the sampler's where it has one."""
    known = library_versions()
    names = (*_LIBRARIES, "vllm") if sampler == "vllm" else _LIBRARIES
    return {name: known.get(name) for name in names}


def _answering(
    backbone: ModelSource, manifest: pd.DataFrame, settings: dict[str, Any], sampler: str = "in_process"
) -> tuple[Any, ...]:
    from fisao_pipeline.models.loading import resolve_device  # noqa: PLC0415 - slow to import

    pictures = manifest[[name for name in ("image_id", "sha256") if name in manifest]]
    model = (loaded_identity(backbone), backbone.dtype, backbone.options, resolve_device(backbone.device).type)
    return (*model, pictures.to_csv(index=False), settings, library_versions_of_results(sampler))


def drop(store: Store[Any], owners: Callable[[], Iterable[str]]) -> None:
    """Remove all parts of these owners, who are asked for only where there are parts: to name them may take seconds."""
    keys = store.keys()
    beginnings = tuple(f"{owner}-" for owner in owners()) if keys else ()
    for key in keys:
        if key.startswith(beginnings):
            store.remove(key)


def digest(*parts: Any) -> str:
    """Hexadecimal digits that tell these JSON-like values from all others."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:_DIGITS]


def in_shards(
    sizes: Sequence[int],
    answer: Callable[[int], list[Row]],
    shards: Shards | None,
    settings: str,
    progress: tqdm,
) -> list[Row]:
    """The rows of all batches in order, those of a part that was kept taken from there.

    Args:
        sizes: Rows of each batch.
        answer: Makes the rows of a batch, given its number, on which alone they depend.
        shards: Where parts are kept; None keeps none.
        settings: Digest of everything that ``answer`` depends on beside ``shards.owner``.
        progress: Counts rows, those that were kept as well.
    """
    rows: list[Row] = []
    taken = 0
    for first, group in _parts(sizes, shards.rows if shards is not None else 1):
        kept = shards.read(shards.key(first, settings)) if shards is not None else None
        part = None if kept is None else kept.to_dict("records")
        if part is None:
            part = []
            for number in group:
                made = answer(number)
                part += made
                progress.update(len(made))
            if shards is not None:
                shards.store.put(shards.key(first, settings), pd.DataFrame(part))
        else:
            taken += len(part)
            progress.update(len(part))
        rows += part
    if taken:
        logger.info("%s: %d of %d were answered by an earlier run and are kept.", progress.desc, taken, len(rows))
    return rows


def _parts(sizes: Sequence[int], rows: int) -> Iterator[tuple[int, list[int]]]:
    """Runs of batches that hold as many rows or a little more, each with the number of its first batch."""
    group: list[int] = []
    for number, _ in enumerate(sizes):
        group.append(number)
        if sum(sizes[i] for i in group) >= rows or number + 1 == len(sizes):
            yield group[0], group
            group = []
