"""Models that were published as pickles, read as data and written as safetensors: once, before any run."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import transformers
from transformers import PreTrainedModel

from fisao_pipeline.models.loading import read_config
from fisao_pipeline.models.processors import load_processor
from fisao_pipeline.models.source import ModelSource, cached_commit, find_model, is_folder, pickled_weights


def convert_to_safetensors(source: ModelSource, output: Path) -> int:
    """Write a model's pickled weights as safetensors, unchanged, with its configuration and processor.

    Args:
        source: Where it is; nothing is downloaded.
        output: An existing empty folder.

    Returns:
        Parameters written.

    Raises:
        ModelNotFoundError: It is not on this machine.
        ValueError: It has no pickled weights, brings code of its own, is of no class of transformers, is not complete,
            or its pickle holds more than tensors.
    """
    folder = find_model(source.path_or_id, source.revision)
    if folder is None or not pickled_weights(folder):
        raise ValueError(f"{source.path_or_id!r} has no pickled weights (pytorch_model.bin): nothing to convert")
    where = {"revision": source.revision, "local_files_only": True, "trust_remote_code": False}
    config = read_config(replace(source, allow_download=False))
    name = (config.architectures or ["none"])[0]
    model_class = getattr(transformers, name, None)
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        raise ValueError(f"{source.path_or_id!r} is a {name}, which is no model class of transformers")
    try:
        model, report = model_class.from_pretrained(
            folder, use_safetensors=False, weights_only=True, dtype="auto", output_loading_info=True
        )
    except pickle.UnpicklingError:
        raise ValueError(f"the pickle of {source.path_or_id!r} holds more than tensors, so it is not read") from None
    if report["missing_keys"]:
        raise ValueError(f"{source.path_or_id!r} lacks weights of a {name}: {sorted(report['missing_keys'])[:3]}")
    model.save_pretrained(output)
    load_processor(config, source.path_or_id, **where).save_pretrained(output)
    commit = None if is_folder(source) else cached_commit(source.path_or_id, source.revision)
    # Says where it came from; a fingerprint leaves it out.
    came_from = source.path_or_id if commit is None else f"{source.path_or_id}, commit {commit}"
    (output / "README.md").write_text(
        f"Weights of {came_from}, converted to safetensors unchanged.\n", encoding="utf-8"
    )
    return model.num_parameters()
