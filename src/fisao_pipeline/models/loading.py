"""Loading a source into memory: one place that decides dtype, device and what may never run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

from fisao_pipeline.models.source import ModelSource, find_model


def resolve_device(name: str) -> torch.device:
    """The torch device that a name means: ``auto``, ``cpu``, ``cuda`` and so on.

    Raises:
        ValueError: If CUDA is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r}: no CUDA device was found; set `device: auto` or `cpu` on the catalog entry")
    return torch.device(name)


def load_pretrained(auto_class: Any, source: ModelSource) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A model (safetensors only, no remote code, frozen) and its processor.

    Raises:
        ModelNotFoundError: If the source is not on this machine and may not be downloaded.
    """
    find_model(source.path_or_id, source.revision, source.allow_download)
    where = {"revision": source.revision, "local_files_only": not source.allow_download, "trust_remote_code": False}
    model = auto_class.from_pretrained(source.path_or_id, dtype=source.dtype, use_safetensors=True, **where)
    processor = AutoProcessor.from_pretrained(source.path_or_id, **where)
    check_dtype(model, source)
    return model.to(resolve_device(source.device)).requires_grad_(False), processor


def check_dtype(model: PreTrainedModel, source: ModelSource) -> None:
    """Refuse a model whose weights are mostly of another type than the one asked for: it would run in that one.

    Few may differ, since some models keep parts of theirs in float32.

    Raises:
        ValueError: If less than half of the weights are of the type; the message names the one that they are.
    """
    counts: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        counts[parameter.dtype] += parameter.numel()
    if source.dtype == "auto" or not counts:
        return
    ran, count = counts.most_common(1)[0]
    if ran != getattr(torch, source.dtype):
        raise ValueError(
            f"{source.path_or_id!r} was asked for in {source.dtype}, and {count / counts.total():.0%} of its weights "
            f"are {str(ran).removeprefix('torch.')}: give a dtype that {type(model).__name__} can be loaded in"
        )
