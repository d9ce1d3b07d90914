"""Which kind a model is of, by the ``model_type`` of its configuration, and why others are refused."""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from fisao_pipeline.models.backbones.gemma import Gemma3, PaliGemma
from fisao_pipeline.models.backbones.generic import BackboneKind
from fisao_pipeline.models.backbones.instructblip import InstructBlip
from fisao_pipeline.models.backbones.internvl import InternVl
from fisao_pipeline.models.backbones.llava import Llava
from fisao_pipeline.models.backbones.qwen_vl import Qwen3Vl, QwenVl

KINDS: dict[str, type[BackboneKind]] = {
    "llava": Llava,
    "instructblip": InstructBlip,
    "llava_next": BackboneKind,
    "llava_onevision": BackboneKind,
    "qwen2_vl": QwenVl,
    "qwen2_5_vl": QwenVl,
    "qwen3_vl": Qwen3Vl,
    "idefics3": BackboneKind,
    "smolvlm": BackboneKind,
    "paligemma": PaliGemma,
    "gemma3": Gemma3,
    "internvl": InternVl,
}
_CROSS_ATTENTION = "its language tower reads the image by cross-attention and not as tokens of the prompt"
_ENCODER_DECODER = "it is an encoder-decoder, whose answers do not continue the prompt"
_REASONS = {
    "mllama": _CROSS_ATTENTION,
    "idefics": _CROSS_ATTENTION,
    "florence2": _ENCODER_DECODER,
    "pix2struct": _ENCODER_DECODER,
    "vision-encoder-decoder": _ENCODER_DECODER,
}


def check_supported(config: PreTrainedConfig, name: str) -> None:
    """Refuse a kind of model that sampling and scoring were not made and tested for.

    Raises:
        ValueError: With the reason where one is known, and what is supported.
    """
    if config.model_type in KINDS:
        return
    reason = _REASONS.get(config.model_type, "nothing here was made for it, and none of its results were tested")
    raise ValueError(
        f"policy {name!r} is of type {config.model_type!r}, which cannot be trained here: {reason}. "
        f"Supported types: {', '.join(sorted(KINDS))}"
    )


def backbone_kind(model: PreTrainedModel, processor: ProcessorMixin) -> BackboneKind:
    """The kind of a loaded model.

    Raises:
        ValueError: If it is of no supported kind, or the kind refuses it.
    """
    check_supported(model.config, model.name_or_path)
    return kind_of(model.config)(model, processor)


def kind_of(config: PreTrainedConfig) -> type[BackboneKind]:
    """The class that handles models of a configuration; a supported one."""
    return KINDS[config.model_type]
