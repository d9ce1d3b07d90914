"""A round on a device, phase by phase: seconds and peak memory of each, and whether it did what it should have."""

import logging
import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from tests.gpu.bench import PROMPT, WORDS, Bench, picture
from tests.gpu.dtypes import output_types
from tests.gpu.kernels import Kernels, Tracer, traced_steps
from tests.gpu.peers import Peer, sampling_peers
from tests.gpu.timing import timed
from tests.gpu.work import PHASES, Work, planned_bytes, sampling_read_bytes, work_of

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.loading import how_it_runs
from fisao_pipeline.models.shape import VerifierShape
from fisao_pipeline.planning.memory import Lengths
from fisao_pipeline.training.learning import adapter_optimizer, micro_batch
from fisao_pipeline.training.ppo import ScoredRollouts, ppo_round, score_rollouts
from fisao_pipeline.training.rollouts import build_rollouts
from fisao_pipeline.training.sampling import sample_responses

# Steps of sampling that are traced, of the first for whose tokens room is made; the first of them is number 0.
TRACED_FROM, TRACED_STEPS = 4, 8


@dataclass(frozen=True)
class Phase:
    """What a phase took.

    Attributes:
        work: What it did.
        seconds: By the clock.
        peak_bytes: Of the GPU's memory in tensors at most; None on the CPU.
    """

    work: Work
    seconds: float
    peak_bytes: int | None

    @property
    def per_second(self) -> float:
        """Of the work's unit."""
        return self.work.amount / self.seconds

    def utilisation(self, peak_flops: float) -> float:
        """MFU: of a peak of operations a second, in the weights' products alone."""
        return self.work.parameter_flops / self.seconds / peak_flops


@dataclass
class Measured:
    """All that a round showed.

    Attributes:
        phases: By name, in their order; those after one that failed are missing.
        peers: Others at sampling.
        kernels: Of a few steps of sampling, and of one micro-batch of the update with the optimiser's step.
        planned_bytes: What the planner says of sampling and update.
        read_bytes: What sampling must read at least.
        micro_batch: Responses, after halving where memory ran out.
        runs_on: Type, device and attention of both models.
        step: Means of the round's numbers.
        warnings: What the package warned of.
        faults: What is wrong; whatever was slow or large is not.
    """

    phases: dict[str, Phase] = field(default_factory=dict)
    peers: list[Peer] = field(default_factory=list)
    kernels: dict[str, Kernels] = field(default_factory=dict)
    planned_bytes: dict[str, int] = field(default_factory=dict)
    read_bytes: float = 0.0
    micro_batch: int = 0
    runs_on: dict[str, str] = field(default_factory=dict)
    step: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Round:
    """Models, prompts and the phases over them."""

    def __init__(self, bench: Bench, device: str):
        torch.manual_seed(0)
        self.bench = bench
        self.verifier, self.policy = bench.verifier(device), bench.policy(device)
        self.optimizer = adapter_optimizer(self.policy, bench.ppo)
        self.micro = micro_batch(bench.ppo, "ppo")
        ids = [str(number) for number in range(bench.prompts)]
        self.prompts = pd.DataFrame({"prompt_id": ids, "image_id": ids, "prompt": PROMPT, "split": "training"})
        self.worth: dict[str, list[float]] = {}

    def annotate(self) -> torch.Tensor:
        """Score all words for all pictures, none of which the verifier knows; rewards are made of that."""
        self.verifier._images.clear()
        self.verifier._texts.clear()
        ids = self.prompts["image_id"].tolist()
        scores = self.verifier.score([i for i in ids for _ in WORDS], WORDS * len(ids), picture)
        by_picture = scores.view(len(ids), len(WORDS)).double()
        self.worth = dict(zip(ids, (by_picture - by_picture.mean()).tolist(), strict=True))
        return scores

    def sample(self, prompts: pd.DataFrame, new_tokens: int) -> pd.DataFrame:
        """Draw K responses of each prompt."""
        args = (self.policy, prompts, picture, Decoding(1.0, new_tokens), self.bench.responses)
        return sample_responses(*args, batch_size=self.bench.sampling_batch, seed=0)

    def batch(self) -> pd.DataFrame:
        """Prompts of one batch of sampling."""
        return self.prompts.head(max(1, self.bench.sampling_batch // self.bench.responses))

    def score(self, responses: pd.DataFrame) -> ScoredRollouts:
        """What the update needs of responses. Random weights name no objects: each token pays as one of the words."""
        if not self.worth:
            self.annotate()
        paid = [
            [self.worth[image_id][token % len(WORDS)] for token in row]
            for image_id, row in zip(responses["image_id"], responses["token_ids"], strict=True)
        ]
        rewards = pd.DataFrame({"response_id": responses["response_id"], "token_rewards": paid})
        rollouts = build_rollouts(responses, self.prompts, rewards, self.policy.device)
        ppo = self.bench.ppo
        return score_rollouts(self.policy, rollouts, picture, 1.0, ppo, ppo.kl_coef, self.micro)

    def update(self, scored: ScoredRollouts) -> dict[str, float]:
        """Take the steps."""
        return ppo_round(self.policy, self.optimizer, scored, picture, 1.0, self.bench.ppo, seed=0, micro=self.micro)


def measure(bench: Bench, device: str, say: Callable[[str], None]) -> Measured:
    """Run everything once on one device, after a little of it to warm up, and time it.

    What fails is among the faults, and what was measured before it is kept.

    Args:
        bench: What is run.
        device: `cpu`, `cuda`, …
        say: Takes a line whenever something is done.
    """
    found = Measured()
    with _warnings(found.warnings):
        try:
            _measure(bench, device, found, say)
        # Whatever it is, what was measured before is not lost.
        except Exception as error:
            found.faults.append(f"{type(error).__name__}: {error}")
            say(traceback.format_exc())
    return found


def _measure(bench: Bench, device: str, found: Measured, say: Callable[[str], None]) -> None:
    round_ = Round(bench, device)
    policy, verifier = round_.policy, round_.verifier
    found.runs_on = {"policy": how_it_runs(policy.backbone), "verifier": how_it_runs(verifier.model)}
    for name, words in found.runs_on.items():
        say(f"{name}: {words}")
    shape, eyes = bench.shape(), verifier.model.vision_model
    prompt_tokens = policy.encode.count_tokens([PROMPT], [(640, 480)])[0]
    lengths = Lengths(prompt_tokens, bench.new_tokens, bench.responses)
    work = work_of(bench, shape, lengths, sum(p.numel() for p in eyes.parameters()))
    head = sum(p.numel() for p in policy.trainable_parameters()) - shape.lora_parameters
    size = VerifierShape("verifier", bench.dtype, sum(p.numel() for p in verifier.model.parameters()))
    found.planned_bytes = planned_bytes(bench, shape, size, head, lengths)
    found.read_bytes = sampling_read_bytes(bench, shape, lengths)

    # One group at full length, as large as a micro-batch can be; then the optimiser has its moments, too.
    with output_types(policy) as types:
        first = round_.sample(round_.prompts.head(1), bench.new_tokens)
        round_.update(round_.score(first))
    round_.sample(round_.prompts, 2)
    round_.annotate()
    say("warmed up")
    if types != {getattr(torch, bench.dtype)}:
        found.faults.append(f"computed in {sorted(map(str, types))}, not in {bench.dtype} alone")

    state: dict[str, Any] = {}
    runs: dict[str, Callable[[], Any]] = {
        "annotation": round_.annotate,
        "sampling": lambda: round_.sample(round_.prompts, bench.new_tokens),
        "scoring": lambda: round_.score(state["sampling"]),
        "update": lambda: round_.update(state["scoring"]),
    }
    for name in PHASES:
        state[name], seconds, peak_bytes = timed(runs[name], policy.device)
        found.phases[name] = Phase(work[name], seconds, peak_bytes)
        say(f"{name}: {found.phases[name].per_second:,.1f} {work[name].unit}/s, {seconds:.3f} s")
    found.micro_batch, found.step = round_.micro.size, state["update"]
    found.faults += wrong(bench, state)
    _trace(round_, state["sampling"], found)
    found.peers = sampling_peers(policy, round_.batch(), bench.responses, bench.new_tokens, round_.sample)
    for peer in found.peers:
        say(f"{peer.name}: {f'{peer.theirs:,.1f} new tokens/s' if peer.theirs else peer.missing}")


def wrong(bench: Bench, state: dict[str, Any]) -> list[str]:
    """What a round's results show to be wrong, `state` being them by phase."""
    faults = []
    lengths = set(state["sampling"]["token_ids"].str.len())
    count = len(state["sampling"])
    if lengths != {bench.new_tokens} or count != bench.prompts * bench.responses:
        faults.append(
            f"{count} responses of {sorted(lengths)} tokens and not {bench.prompts * bench.responses} of "
            f"{bench.new_tokens}: the work that was counted is not the work that was done"
        )
    if not bool(torch.isfinite(state["annotation"]).all()):
        faults.append("the verifier's scores are not all finite")
    faults += [
        f"{name} of the update is {value}" for name, value in state["update"].items() if not math.isfinite(value)
    ]
    expected = -(-bench.prompts * bench.responses // bench.ppo.batch_size)
    if state["update"]["updates"] != expected:
        faults.append(f"{state['update']['updates']:g} optimiser steps and not {expected}")
    return faults


def _trace(round_: Round, responses: pd.DataFrame, found: Measured) -> None:
    bench, device = round_.bench, round_.policy.device
    tracer = Tracer(device)
    with traced_steps(tracer, TRACED_FROM, TRACED_STEPS):
        round_.sample(round_.batch(), TRACED_FROM + TRACED_STEPS + 2)
    found.kernels["sampling"] = tracer.kernels()
    scored = round_.score(responses.head(max(bench.responses, round_.micro.size)))
    tracer = Tracer(device)
    tracer.start()
    round_.update(scored)
    tracer.stop()
    found.kernels["update"] = tracer.kernels()


@contextmanager
def _warnings(into: list[str]) -> Iterator[None]:
    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            into.append(record.getMessage())

    handler, logger = Keep(logging.WARNING), logging.getLogger("fisao_pipeline")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
