"""Loading a source into memory: one place that decides dtype, device and what may never run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from fisao_pipeline.models.backbones.choice import check_supported
from fisao_pipeline.models.packages import check_packages
from fisao_pipeline.models.processors import load_processor
from fisao_pipeline.models.quantization import four_bit_options, is_four_bit, keep_trainable_on_cpu
from fisao_pipeline.models.source import (
    CONFIG_FILE,
    ModelNotFoundError,
    ModelSource,
    code_refused,
    download_command,
    find_model,
    incomplete,
    is_folder,
    missing_model_files,
)

logger = logging.getLogger(__name__)

# Not for loading: `training.run` reads it.
TRAINING_OPTION = "gradient_checkpointing"
# Decided here and nowhere else.
_RESERVED = {"revision", "local_files_only", "trust_remote_code", "use_safetensors", "dtype", "torch_dtype"}
_RESERVED |= {"quantization_config", "load_in_4bit", "load_in_8bit"}


def resolve_device(name: str) -> torch.device:
    """The torch device that a name means: ``auto``, ``cpu``, ``cuda`` and so on.

    Raises:
        ValueError: If CUDA is asked for and there is none, or not of that number, or torch knows no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r}: no CUDA device was found; set `device: auto` or `cpu` on the catalog entry")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is not known; set `device: auto`, `cpu` or `cuda`") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: there are {torch.cuda.device_count()}, counted from 0; set `device: auto`")
    return device


def load_pretrained(auto_class: Any, source: ModelSource) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A model (safetensors only, no remote code, frozen) and its processor.

    Raises:
        ModelNotFoundError: If the source, or a part of it, is not on this machine and may not be downloaded.
        ImportError: If it needs a package that is not installed.
        ValueError: If the model wants code of its own, an option is not known, a vision-language model (loaded with
            ``AutoModelForImageTextToText``) is of no supported kind, or anything else is to be quantized.
    """
    folder = find_model(source.path_or_id, source.revision, source.allow_download)
    options = checked_options(source)
    config = read_config(source)
    check_role(auto_class, config, source)
    check_packages(config, source)
    if not source.allow_download and folder is not None and (lacking := missing_model_files(folder)):
        raise ModelNotFoundError(incomplete(source, lacking))
    device = resolve_device(source.device)
    if source.quantization is not None:
        options["model"] |= four_bit_options(auto_class, config, source, device)
    # Before gigabytes of weights: it is small, and may be what is wrong.
    processor = read_processor(config, source, options["processor"])
    with attention_told(source):
        model = auto_class.from_pretrained(
            source.path_or_id, dtype=source.dtype, use_safetensors=True, **options["model"], **_where(source)
        )
    check_dtype(model, source)
    keep_trainable_on_cpu(model)
    model = model.to(device).requires_grad_(False)
    logger.info("Loaded %s: %s.", source.path_or_id, how_it_runs(model))
    return model, processor


def _where(source: ModelSource) -> dict[str, Any]:
    """What all of a source is read with: its revision, no network unless allowed, and never code of its own."""
    return {"revision": source.revision, "local_files_only": not source.allow_download, "trust_remote_code": False}


def check_role(auto_class: Any, config: PreTrainedConfig, source: ModelSource) -> None:
    """Refuse a policy of no supported kind, and anything else that is to be quantized.

    Raises:
        ValueError: With what to do.
    """
    if auto_class is AutoModelForImageTextToText:
        check_supported(config, source.path_or_id)
    elif source.quantization is not None:
        raise ValueError(
            f"{source.path_or_id!r}: only a policy can be quantized; a verifier's scores must not depend on it. "
            "Take `quantization` out of its catalog entry"
        )


def read_processor(config: PreTrainedConfig, source: ModelSource, options: Mapping[str, Any]) -> ProcessorMixin:
    """The processor of a source; ``options`` are the source's own for it.

    Raises:
        ValueError: If it wants to run code of its own, or cannot be loaded.
        ImportError: If it needs a package that is not installed.
    """
    return load_processor(config, source.path_or_id, **options, **_where(source))


@contextmanager
def attention_told(source: ModelSource) -> Iterator[None]:
    """Say which option it is where the package of an implementation of attention is not installed."""
    try:
        yield
    except ImportError as error:
        chosen = attention_option(source).get("attn_implementation")
        if chosen is None:
            raise
        raise ImportError(
            f"`attn_implementation: {chosen}` among the options of {source.path_or_id!r} cannot be used here: "
            f"{_first_line(error)}. Install its package, or take the option out"
        ) from error


def attention_option(source: ModelSource) -> dict[str, Any]:
    """The option that chooses an implementation of attention, where a source has one."""
    given = source.options.get("model")
    return {k: v for k, v in given.items() if k == "attn_implementation"} if isinstance(given, Mapping) else {}


def how_it_runs(model: PreTrainedModel) -> str:
    """What a loaded model computes with: type of its weights, device, implementation of attention."""
    total = sum(p.numel() for p in model.parameters())
    types = ", ".join(
        str(dtype).removeprefix("torch.") + ("" if count == total else f" ({count / total:.1%})")
        for dtype, count in _dtypes(model).most_common()
    )
    configs = (getattr(module, "config", None) for module in model.modules())
    attention = sorted({name for c in configs if (name := getattr(c, "_attn_implementation", None)) is not None})
    return f"{type(model).__name__} in {types} on {model.device}, attention {' and '.join(attention) or 'of its own'}"


def _dtypes(model: PreTrainedModel, without: Collection[int] = ()) -> Counter[torch.dtype]:
    counts: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        if id(parameter) not in without:
            counts[parameter.dtype] += parameter.numel()
    return counts


def check_dtype(model: PreTrainedModel, source: ModelSource) -> None:
    """Refuse a model whose weights are mostly of another type than the one asked for: it would run in that one.

    Few may differ, since some models keep parts of theirs in float32; 4-bit weights do not count, if they were asked
    for.

    Raises:
        ValueError: If less than half of the weights are of the type; the message names the one that they are. Or if
            nothing became 4-bit that should have, or something that should not.
    """
    packed = {id(module.weight) for module in model.modules() if is_four_bit(module)}
    if bool(packed) != (source.quantization is not None):
        asked = f"quantization {source.quantization!r}" if source.quantization is not None else "16 bits or more"
        found = f"{len(packed)} of its layers are 4-bit" if packed else "no layer became 4-bit"
        raise ValueError(f"{source.path_or_id!r} was asked for in {asked}, and {found}")
    counts = _dtypes(model, without=packed)
    if source.dtype == "auto" or not counts:
        return
    ran, count = counts.most_common(1)[0]
    if ran != getattr(torch, source.dtype):
        raise ValueError(
            f"{source.path_or_id!r} was asked for in {source.dtype}, and {count / counts.total():.0%} of its weights "
            f"are {str(ran).removeprefix('torch.')}: give a dtype that {type(model).__name__} can be loaded in"
        )


def checked_options(source: ModelSource) -> dict[str, dict[str, Any]]:
    """Options of the source for ``from_pretrained`` of model and processor.

    Raises:
        ValueError: If one is not known, or must not be set there.
    """
    options: dict[str, dict[str, Any]] = {"model": {}, "processor": {}}
    for part, given in source.options.items():
        if part == TRAINING_OPTION and isinstance(given, bool):
            continue
        if part not in options or not isinstance(given, Mapping):
            raise ValueError(
                f"options of {source.path_or_id!r}: {part!r} is not known; there are `model` and `processor`, each a "
                "mapping that is passed to from_pretrained, such as {model: {attn_implementation: eager}}, and "
                f"`{TRAINING_OPTION}`, true or false"
            )
        if refused := sorted(_RESERVED & set(given)):
            raise ValueError(
                f"options of {source.path_or_id!r}: {', '.join(refused)} cannot be set there; dtype, revision and "
                "allow_download are keys of the catalog entry, and code from a model's repository is never run"
            )
        options[part] = dict(given)
    return options


def read_config(source: ModelSource) -> PreTrainedConfig:
    """A model's configuration, of a kind that transformers has classes of its own for.

    Raises:
        ModelNotFoundError: If it was to be downloaded and cannot be.
        ValueError: If the model wants to run code of its own.
    """
    where = {"revision": source.revision, "local_files_only": not source.allow_download}
    try:
        raw, _ = PreTrainedConfig.get_config_dict(source.path_or_id, **where)
    except OSError as error:
        if is_folder(source) or not source.allow_download:
            raise
        raise ModelNotFoundError(
            f"'{source.path_or_id}' is not on this machine and cannot be downloaded ({_first_line(error)}). Get it "
            f"where there is a network: `{download_command(source.path_or_id, source.revision)}`"
        ) from error
    if raw.get("auto_map") and raw.get("model_type") not in CONFIG_MAPPING:
        raise ValueError(code_refused(f"{source.path_or_id!r} (model type {raw.get('model_type')!r})", CONFIG_FILE))
    return AutoConfig.from_pretrained(source.path_or_id, trust_remote_code=False, **where)


def _first_line(error: Exception) -> str:
    """What an exception says, without the advice that libraries add below."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
