"""All that loading would refuse a model for before it reads weights, by the checks that loading itself makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import AutoModel, AutoModelForImageTextToText, PreTrainedConfig

from fisao_pipeline.models.loading import check_role, checked_options, read_processor, resolve_device
from fisao_pipeline.models.packages import check_packages
from fisao_pipeline.models.quantization import check_four_bit
from fisao_pipeline.models.shape import load_config
from fisao_pipeline.models.source import ModelNotFoundError, ModelSource, find_model, missing_processor_files
from fisao_pipeline.models.verifier import check_scores

_POLICY = "policy_backbone"


def loading_faults(role: str, source: ModelSource) -> list[str]:
    """Why a model could not be loaded here: options, device, kind, packages, processor; each fault, not the first one.

    Not that it, or a part of it, is missing: who looks for the files tells that. A processor is loaded where its files
    are here, weights may be missing.

    Args:
        role: The catalog entry, `policy_backbone` or `verifier`.
        source: The model.
    """
    faults: list[str] = []

    def passes(check: Callable[..., Any], *arguments: Any) -> bool:
        try:
            check(*arguments)
        except (ImportError, ValueError, OSError) as error:
            faults.append(str(error))
            return False
        return True

    options = passes(checked_options, source)
    device = passes(resolve_device, source.device)
    config = _config(source)
    if config is None:
        return faults
    if role != _POLICY:
        passes(check_scores, config, source.path_or_id)
    passes(check_role, AutoModelForImageTextToText if role == _POLICY else AutoModel, config, source)
    if role == _POLICY and source.quantization is not None and device:
        passes(check_four_bit, source, resolve_device(source.device))
    # Both would keep the processor from loading, in other words.
    if passes(check_packages, config, source) and options and _processor_is_here(source):
        passes(read_processor, config, source, checked_options(source)["processor"])
    return faults


def _config(source: ModelSource) -> PreTrainedConfig | None:
    try:
        return load_config(source)
    except (OSError, ValueError):  # told by who measures the model
        return None


def _processor_is_here(source: ModelSource) -> bool:
    try:
        folder = find_model(source.path_or_id, source.revision)
    except ModelNotFoundError:
        return False
    return folder is not None and not missing_processor_files(folder)
