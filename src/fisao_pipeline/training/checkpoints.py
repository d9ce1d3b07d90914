"""Checkpoints of a training run: all that its next step depends on, in one file that is there whole or not at all."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.tensor_file import TensorFile
from fisao_pipeline.training.shards import Shards, Store

logger = logging.getLogger(__name__)

# The one before the last is there should the last be damaged.
KEPT_CHECKPOINTS = 2


class Stateful(Protocol):
    """Something whose state outlives the process: a learner, a verifier with what it has embedded."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Its tensors by name."""

    def values(self) -> Mapping[str, Any]:
        """What there is beside tensors, ready for JSON."""

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what the two gave."""


@dataclass
class Kept:
    """The adapter to hand over, and the probe's score that earned it its place."""

    round_index: int
    score: float
    state: Mapping[str, Tensor]


@dataclass
class TrainingState:
    """What the loop knows beside the policy's weights and the learner's state.

    Attributes:
        kept: The best adapter so far.
        history: A row for each finished round, the first that of the untrained policy.
        updates: Optimiser steps taken.
        sampled_tokens: Of all rounds' rollouts so far.
        seconds: Spent on the round under way, up to here.
        rollouts: Of rounds 1, 2, …, that of the round under way included, with their rewards.
        rollout_keys: Where these are kept, in the same order.
    """

    kept: Kept
    history: list[dict[str, float]]
    updates: int = 0
    sampled_tokens: int = 0
    seconds: float = 0.0
    rollouts: list[pd.DataFrame] = field(default_factory=list)
    rollout_keys: list[str] = field(default_factory=list)

    @property
    def next_round(self) -> int:
        """The round that is under way or comes next."""
        return len(self.history) - 1


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints and rollouts of one run, in stores that may hold other runs' as well.

    Attributes:
        store: Holds the checkpoints.
        shards: Hold the rollouts, in parts while they are sampled; their owner is the run, see
            ``training.run.TrainingInputs``.
        every_steps: Optimiser steps between checkpoints within a round.
    """

    store: Store[TensorFile]
    shards: Shards
    every_steps: int

    @property
    def run(self) -> str:
        """Name of the run, with which every key begins."""
        return self.shards.owner

    def round_shards(self, index: int, policy: Policy) -> Shards:
        """Where a round's rollouts are kept that this very policy samples; whole under the owner's name."""
        return replace(self.shards, owner=f"{self.run}-{index:04d}-{policy.trainable_digest()}")

    def save(self, policy: Policy, others: Mapping[str, Stateful], state: TrainingState) -> None:
        """Keep a checkpoint in place of those before the last one."""
        own = self._own()
        number = int(own[-1].rpartition("-")[2]) + 1 if own else 0
        self.store.put(f"{self.run}-{number:08d}", pack(policy, others, state))
        for key in own[: 1 - KEPT_CHECKPOINTS]:
            self.store.remove(key)

    def restore(self, policy: Policy, others: Mapping[str, Stateful]) -> TrainingState | None:
        """Put all of a run, and random states, where the newest readable checkpoint has them; None without one."""
        for key in reversed(self._own()):
            try:
                file = self.store.get(key)
                rollouts = [self._rollouts(kept) for kept in file.values["state"]["rollout_keys"]]
            except Exception as error:  # whatever is wrong with a file, there is one before it or a start anew
                logger.warning("The checkpoint %s cannot be read and is passed over: %s", key, error)
                continue
            return unpack(file, rollouts, policy, others)
        foreign = set(self.store.keys()) - set(self._own())
        if foreign:
            logger.info(
                "%d checkpoint(s) of runs with other settings, models or data are left alone: each goes when its own "
                "run is finished, and may be deleted at any time.",
                len(foreign),
            )
        return None

    def _own(self) -> list[str]:
        return sorted(key for key in self.store.keys() if key.startswith(f"{self.run}-"))

    def _rollouts(self, key: str) -> pd.DataFrame:
        table = self.shards.store.get(key)
        if table is None:
            raise LookupError(f"the rollouts {key} are gone")
        return table


def pack(policy: Policy, others: Mapping[str, Stateful], state: TrainingState) -> TensorFile:
    """All of a run, and the random states of this process, as tensors and plain values; see ``unpack``."""
    random_tensors, random_values = random_states()
    parts = {
        "policy": policy.trainable_state(),
        "kept": state.kept.state,
        "random": random_tensors,
        **{name: other.tensors() for name, other in others.items()},
    }
    plain = {name: getattr(state, name) for name in ("history", "updates", "sampled_tokens", "seconds", "rollout_keys")}
    kept = {"round_index": state.kept.round_index, "score": state.kept.score}
    return TensorFile(
        {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()},
        {
            "state": plain,
            "kept": kept,
            "random": random_values,
            **{name: other.values() for name, other in others.items()},
        },
    )


def unpack(
    file: TensorFile, rollouts: list[pd.DataFrame], policy: Policy, others: Mapping[str, Stateful]
) -> TrainingState:
    """Inverse of ``pack``: changes policy, others and this process's random states, and returns the state."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in file.tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor
    policy.load_trainable_state(parts["policy"])
    for name, other in others.items():
        other.restore(parts[name], file.values[name])
    set_random_states(parts["random"], file.values["random"])
    kept = Kept(**file.values["kept"], state=parts["kept"])
    return TrainingState(kept, rollouts=rollouts, **file.values["state"])


def random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """States of the random generators of torch (CPU and each CUDA device), NumPy and Python."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        tensors |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    _, keys, *rest = np.random.get_state()
    version, words, gauss = random.getstate()
    return tensors, {"numpy": [keys.tolist(), *rest], "python": [version, list(words), gauss]}


def set_random_states(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Inverse of ``random_states``."""
    torch.set_rng_state(tensors["torch"])
    devices = sum(name.startswith("cuda.") for name in tensors)
    if devices:
        torch.cuda.set_rng_state_all([tensors[f"cuda.{index}"] for index in range(devices)])
    keys, *rest = values["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), *rest))
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))
