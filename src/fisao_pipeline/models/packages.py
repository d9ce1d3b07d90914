"""Packages that some models need beyond this project's own; each is in an extra of pyproject.toml."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from transformers import PreTrainedConfig

from fisao_pipeline.models.source import ModelSource

# Of each `model_type`: what its processor imports, for pictures alone too, and the extra that brings it.
_OF_KIND = {"smolvlm": ("num2words", "smolvlm")}


def check_packages(config: PreTrainedConfig, source: ModelSource) -> None:
    """Refuse a model that needs a package which is not installed; its weights need not be there.

    Raises:
        ImportError: With the command that installs it.
    """
    needed = []
    if config.model_type in _OF_KIND:
        needed.append((f"the processor of {source.path_or_id!r} ({config.model_type})", *_OF_KIND[config.model_type]))
    if source.quantization is not None:
        what = f"`quantization: {source.quantization}` of {source.path_or_id!r}"
        needed.append((what, "bitsandbytes", "quantization"))
    _require(needed)


def check_sampler_package(sampler: str) -> None:
    """Refuse a sampler whose package is not installed.

    Raises:
        ImportError: With the command that installs it.
    """
    if sampler == "vllm":
        _require([("response_sampling.sampler `vllm`", "vllm", "vllm")])


def _require(needed: Sequence[tuple[str, str, str]]) -> None:
    lacking = [
        f"{what} needs {package}: `pip install 'fisao-pipeline[{extra}]'`"
        for what, package, extra in needed
        if find_spec(package) is None
    ]
    if lacking:
        raise ImportError("; ".join(lacking))
