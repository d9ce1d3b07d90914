"""Whether a model is of a kind that can be used here, from its configuration; the usual kinds need no torch for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fisao_pipeline.models.source import CONFIG_FILE, ModelSource, json_object

# By `model_type`: what `models/backbones/` handles, and dual encoders that `models/verifier.py` does.
POLICY_KINDS = frozenset(
    "gemma3 idefics3 instructblip internvl llava llava_next llava_onevision paligemma qwen2_5_vl qwen2_vl qwen3_vl "
    "smolvlm".split()
)
VERIFIER_KINDS = frozenset(
    "align altclip chinese_clip clip clipseg flava groupvit metaclip_2 owlv2 owlvit siglip siglip2".split()
)
BLIP2_VERIFIER = "Blip2ForImageTextRetrieval"
_ROLES = ("policy_backbone", "verifier")


def unusable(role: str, source: ModelSource, folder: Path) -> str | None:
    """Why a model cannot be what a run takes it for, in the words that loading would have; None if it can be.

    Only a kind that is not among the usual ones is looked at with transformers, which takes seconds to import.

    Args:
        role: The catalog entry, `policy_backbone` or `verifier`; any other name is not looked at.
        source: The model.
        folder: Where it is on this machine.
    """
    if role not in _ROLES or _is_usual(role, json_object(folder / CONFIG_FILE)):
        return None
    from fisao_pipeline.models.backbones.choice import check_supported  # noqa: PLC0415 - slow to import
    from fisao_pipeline.models.loading import read_config  # noqa: PLC0415
    from fisao_pipeline.models.verifier import check_scores  # noqa: PLC0415

    check = check_supported if role == "policy_backbone" else check_scores
    try:
        check(read_config(source), source.path_or_id)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _is_usual(role: str, config: Mapping[str, Any]) -> bool:
    kind = str(config.get("model_type"))
    if role == "policy_backbone":
        return kind in POLICY_KINDS
    # A BLIP-2 that writes captions is of the same type.
    return kind in VERIFIER_KINDS or (kind == "blip-2" and config.get("architectures") == [BLIP2_VERIFIER])
