"""Others at the same work on the same device: tokens a second beside ours, or why there are none."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pandas as pd
import torch
from tests.bench import plain
from tests.bench.side_by_side import attempt
from tests.gpu.bench import picture
from tests.gpu.ceilings import synchronize
from tests.gpu.timing import timed

# New tokens of each response at most: the ways are slow, and a step is a step.
TOKENS = 64


@dataclass(frozen=True)
class Peer:
    """Another way of sampling.

    Attributes:
        name: As the table says it.
        ours: New tokens a second.
        theirs: The same of the other; None where it was not run.
        missing: Why it was not.
    """

    name: str
    ours: float
    theirs: float | None
    missing: str | None = None


def sampling_peers(
    policy, prompts: pd.DataFrame, responses: int, new_tokens: int, ours: Callable[[pd.DataFrame, int], pd.DataFrame]
) -> list[Peer]:
    """One batch of samples by `generate`, transformers' own, in two ways; what cannot be run says why.

    Args:
        policy: It computes as in our sampling, the adapter in the backbone's type.
        prompts: Of the batch, about pictures of ``bench.picture``.
        responses: K.
        new_tokens: Of each response; no more than ``TOKENS`` are drawn.
        ours: Samples prompts, and so many tokens of each.
    """
    tokens = min(new_tokens, TOKENS)
    world = SimpleNamespace(open_image=picture)

    def per_second(run: Callable[[], object], count: int) -> float:
        _, seconds, _ = timed(run, policy.device)
        return count * tokens / seconds

    def theirs(part: pd.DataFrame, at_once: int) -> float:
        rows = part.loc[part.index.repeat(responses)]
        with policy._adapter(off=False):
            plain.generate(policy, world, rows.head(at_once), 2, at_once)  # warms up
            return per_second(lambda: plain.generate(policy, world, rows, tokens, at_once), len(rows))

    own = per_second(lambda: ours(prompts, tokens), len(prompts) * responses)
    ways = {
        "`generate`, one call a sample": lambda: theirs(prompts.head(1), 1),
        "`generate`, one call for all samples": lambda: theirs(prompts, len(prompts) * responses),
    }
    found = []
    for name, run in ways.items():
        rate, missing = attempt(run)
        if policy.device.type == "cuda":  # what ran out of memory may have left some
            synchronize(policy.device)
            torch.cuda.empty_cache()
        found.append(Peer(name, own, rate, missing))
    return [*found, Peer("TRL GRPO", own, None, "compared with the pocket models alone, by `make bench`")]
