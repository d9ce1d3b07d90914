"""Whether the verifier sees with the policy's own eyes: both vision towers compared in their files."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fisao_pipeline.models.source import WEIGHTS_FILE, ModelNotFoundError, ModelSource, find_model, fingerprint

logger = logging.getLogger(__name__)

# CLIP, SigLIP and BLIP-2 say `vision_model.`, LLaVA `vision_tower.` or `model.vision_tower.`, older checkpoints of it
# `vision_tower.vision_model.`: what counts of a name is what comes after the last of them.
_TOWER = re.compile(r"(?:.*\.)?(?:vision_model|vision_tower)\.(.+)")
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Buffers of older checkpoints (position_ids), which newer ones leave out.
_COUNTERS = {"I64", "I32", "BOOL"}


@dataclass(frozen=True)
class TowerComparison:
    """The policy's vision tower against the verifier's.

    Attributes:
        policy: Name of the policy.
        verifier: Name of the verifier.
        equal: Tensors of the policy's tower that the verifier's has with the same values.
        different: Names of those that it has with other values or another shape.
        missing: Names of those that it does not have. What the verifier has beyond the policy does not count: LLaVA
            reads the last layer but one, and a checkpoint may leave out what comes after it.
        obstacle: Why they cannot be compared; None where they were.
    """

    policy: str
    verifier: str
    equal: int = 0
    different: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    obstacle: str | None = None

    @property
    def own(self) -> bool | None:
        """Whether it is the policy's own encoder; None where that cannot be told."""
        return None if self.obstacle is not None else not (self.different or self.missing)

    def __str__(self) -> str:
        if self.own:
            return (
                f"verifier {self.verifier!r} sees with the own encoder of policy {self.policy!r}: all {self.equal} "
                "tensors of its vision tower are equal"
            )
        if self.obstacle is not None:
            found = f"may see with other eyes than policy {self.policy!r}; their vision towers cannot be compared: "
            found += self.obstacle
        else:
            total = self.equal + len(self.different) + len(self.missing)
            first = (*self.different, *self.missing)[0]
            found = (
                f"does not see with the own encoder of policy {self.policy!r}: of {total} tensors of the policy's "
                f"vision tower {len(self.different)} differ and {len(self.missing)} are missing in the verifier "
                f"({first} for one)"
            )
        return (
            f"verifier {self.verifier!r} {found}. Another model's eyes judge the policy then, which is not the "
            "method's self-alignment: rewards may pay what the policy cannot see. Take the dual encoder that the "
            "policy's tower comes from, or go on knowingly; verifier_baseline and model card say so"
        )


def own_encoder(policy: ModelSource, verifier: ModelSource) -> bool | None:
    """Whether the verifier's vision tower is the policy's; logged, as a warning where it is not or cannot be told."""
    compared = compare_towers(policy, verifier)
    logger.log(logging.INFO if compared.own else logging.WARNING, "reward_annotation: %s.", compared)
    return compared.own


def compare_towers(policy: ModelSource, verifier: ModelSource) -> TowerComparison:
    """Compare the vision towers of two models without loading either: one pair of tensors at a time is in memory.

    Where precision differs, the finer values are rounded to the coarser ones'. Done once for the same two models.
    """
    names = (policy.path_or_id, verifier.path_or_id)
    try:
        folders = [find_model(source.path_or_id, source.revision) for source in (policy, verifier)]
    except ModelNotFoundError as error:
        return TowerComparison(*names, obstacle=str(error).rstrip("."))
    return _compare_folders(*names, *folders, *(fingerprint(folder) for folder in folders))


@lru_cache(maxsize=8)
def _compare_folders(policy: str, verifier: str, own: Path, other: Path, *_content: str) -> TowerComparison:
    try:
        with _tower(own) as seen, _tower(other) as judged:
            for name, tower in ((policy, seen), (verifier, judged)):
                odd = sorted({kind for kind, _ in tower.values()} - _FLOATS.keys())
                if odd:
                    return TowerComparison(policy, verifier, obstacle=f"{name!r} holds {', '.join(odd)} in it")
                if not tower:
                    return TowerComparison(policy, verifier, obstacle=f"{name!r} holds no tensor of one by that name")
            if not seen.keys() & judged.keys():
                return TowerComparison(policy, verifier, obstacle="no tensor has the same name in both")
            shared = sorted(seen.keys() & judged.keys())
            different = tuple(key for key in shared if not _equal(seen[key][1], judged[key][1]))
            missing = tuple(sorted(seen.keys() - judged.keys()))
    except (OSError, ValueError, SafetensorError) as error:
        return TowerComparison(policy, verifier, obstacle=str(error).rstrip("."))
    return TowerComparison(policy, verifier, len(shared) - len(different), different, missing)


@contextmanager
def _tower(folder: Path) -> Iterator[dict[str, tuple[str, Any]]]:
    """Type and lazy values of each tensor of a folder's vision tower, by its name within the tower."""
    tower: dict[str, tuple[str, Any]] = {}
    with ExitStack() as stack:
        for file in _weight_files(folder):
            weights = stack.enter_context(safe_open(file, framework="pt"))
            for name in weights.keys():
                inside = _TOWER.fullmatch(name)
                if inside is None:
                    continue
                values = weights.get_slice(name)
                if values.get_dtype() not in _COUNTERS:
                    tower[inside[1]] = (values.get_dtype(), values)
        yield tower


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, each shard of its index.

    Raises:
        ValueError: If the index cannot be read, or names something outside the folder.
        FileNotFoundError: If a file is missing.
    """
    index = folder / f"{WEIGHTS_FILE}.index.json"
    names = [WEIGHTS_FILE]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ValueError(f"{index} cannot be read") from None
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{index} names {name!r}, which is no file beside it")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"'{folder}' has no {name}")
    return [folder / name for name in names]


def _equal(one: Any, other: Any) -> bool:
    """Whether two lazy tensors hold the same values but for rounding: what is finer is rounded as the other was."""
    if one.get_shape() != other.get_shape():
        return False
    # An ellipsis reads a scalar too, a slice would not.
    first, second = one[...], other[...]
    if {first.dtype, second.dtype} == {torch.float16, torch.bfloat16}:
        # Neither holds the other's values: as near as rounding of one and the same leaves them, 2^-8 and 2^-11 of it.
        return torch.allclose(first.float(), second.float(), rtol=2.0**-8 + 2.0**-10, atol=2.0**-24)
    return _rounds_to(first, second) or _rounds_to(second, first)


def _rounds_to(fine: Tensor, coarse: Tensor) -> bool:
    """Whether values are the other's, rounded to its type, maybe by way of a 16-bit type that they were loaded in."""
    if torch.finfo(fine.dtype).eps > torch.finfo(coarse.dtype).eps:
        return False
    ways = (fine.dtype, torch.bfloat16, torch.float16)
    return any(torch.equal(fine.to(way).to(coarse.dtype), coarse) for way in ways)
