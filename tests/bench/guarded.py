"""Four ratios of little work: `make bench` stores them, and the default tests fail where one is twice as bad."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from tests.bench import plain
from tests.bench.side_by_side import CPU_SECONDS
from tests.bench.worlds import annotator, written_responses
from tests.pocket_models import PocketWorld, favour

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.training.rollouts import RolloutBatch, build_rollouts
from fisao_pipeline.training.sampling import sample_responses

PICTURES, COMPLETIONS, TOKENS = 4, 4, 10
NOTE = "little work of the default tests, untrained models; least of five in turn"


@dataclass(frozen=True)
class Guarded:
    """Two ways of the same work.

    Attributes:
        title: Of the row that `make bench` writes.
        against: Of the row.
        ours: Does it.
        theirs: Does it the other way, or no more than what no way can do without.
        share: How much of our work theirs does.
        is_floor: Whether the ratio is our time over theirs; otherwise it is theirs over ours.
    """

    title: str
    against: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    share: float = 1.0
    is_floor: bool = False

    def measure(self) -> tuple[float, float, float]:
        """The ratio by CPU seconds, and those of ours and of theirs: the least of five, taken in turn after one."""
        seconds: dict[Callable[[], Any], list[float]] = {self.ours: [], self.theirs: []}
        for _ in range(6):
            for way, found in seconds.items():
                started = CPU_SECONDS()
                way()
                found.append(CPU_SECONDS() - started)
        ours, theirs = (min(found[1:]) for found in seconds.values())
        ratio = theirs / self.share / ours
        return 1 / ratio if self.is_floor else ratio, ours, theirs / self.share


def unending(world: PocketWorld) -> Policy:
    """A policy that never ends a sentence, so that the work is known."""
    policy = world.policy()
    return favour(policy, policy.tokenizer.eos_token_id, -1e4)


def equal_prompts(world: PocketWorld) -> pd.DataFrame:
    """Prompts as long as each other."""
    return world.prompts.head(PICTURES).assign(prompt="Describe the picture.")


def sample(world: PocketWorld, policy: Policy, prompts: pd.DataFrame) -> pd.DataFrame:
    args = (policy, prompts, world.open_image, Decoding(1.0, TOKENS), COMPLETIONS)
    return sample_responses(*args, batch_size=PICTURES * COMPLETIONS, seed=0)


def rollouts_of(policy: Policy, responses: pd.DataFrame, prompts: pd.DataFrame) -> RolloutBatch:
    paid = responses["token_ids"].map(lambda row: [float(token % 2) for token in row])
    rewards = pd.DataFrame({"response_id": responses["response_id"], "token_rewards": paid})
    return build_rollouts(responses, prompts, rewards, policy.device)


def sampling(world: PocketWorld) -> Guarded:
    policy, prompts = unending(world), equal_prompts(world)
    rows = prompts.loc[prompts.index.repeat(COMPLETIONS)]
    return Guarded(
        "guarded: sampling, K = 4",
        "`generate`, one call a sample",
        lambda: sample(world, policy, prompts),
        lambda: plain.generate(policy, world, rows, TOKENS, at_once=1),
    )


def scoring(world: PocketWorld) -> Guarded:
    policy, prompts = unending(world), equal_prompts(world)
    rollouts = rollouts_of(policy, sample(world, policy, prompts), prompts)
    every = list(range(len(rollouts)))

    def packed() -> None:
        texts, image_ids, prompt_of_row = rollouts.unique_prompts()
        batch = policy.encode(texts, image_ids, world.open_image)
        args = (batch, rollouts.completion_ids, rollouts.completion_mask, 1.0)
        policy.score(*args, prompt_of_row=prompt_of_row)[0].sum().backward()

    return Guarded(
        "guarded: logprobs and their gradient, K = 4",
        "whole forward passes, a row a response",
        packed,
        lambda: plain.token_logprobs(policy, world, rollouts, every).sum().backward(),
    )


def _annotation(world: PocketWorld) -> tuple[Any, pd.DataFrame, Callable[[], None]]:
    verifier = world.verifier()
    annotate = annotator(world, verifier, world.open_image)
    responses = written_responses(world, world.policy(lora=None).tokenizer, COMPLETIONS)

    def ours() -> None:
        verifier._images.clear()
        annotate(responses)

    return verifier, responses, ours


def annotation(world: PocketWorld) -> Guarded:
    verifier, responses, ours = _annotation(world)
    tokenizer, few = world.policy(lora=None).tokenizer, responses.head(2)
    return Guarded(
        "guarded: annotation",
        "one forward pass of CLIP a token",
        ours,
        lambda: plain.score_each_token(verifier, world.open_image, few, tokenizer),
        share=len(few) / len(responses),
    )


def image_tower(world: PocketWorld) -> Guarded:
    verifier, _, ours = _annotation(world)
    images = [world.open_image(image_id) for image_id in world.images]
    pixels = verifier.processor(images=images, return_tensors="pt")["pixel_values"]

    @torch.no_grad()
    def floor() -> None:
        for part in pixels.split(verifier.batch_size):
            verifier.model.get_image_features(pixel_values=part)

    return Guarded("guarded: annotation", "the image tower alone, pixels ready", ours, floor, is_floor=True)


GUARDED: tuple[Callable[[PocketWorld], Guarded], ...] = (sampling, scoring, annotation, image_tower)
