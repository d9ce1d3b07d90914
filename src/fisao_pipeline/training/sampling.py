"""Response sampling: prompts in, responses with tokens and logprobs out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from tqdm.auto import tqdm

from fisao_pipeline.models.decoding import Completions, Decoding
from fisao_pipeline.models.halving import HalvingSize
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.models.vllm_engine import VllmEngine, check_engine
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.seeded_choice import seeded_choice
from fisao_pipeline.training.context import token_counts
from fisao_pipeline.training.shards import Shards, digest, in_shards

RESPONSE_COLUMNS = [
    "response_id",
    "prompt_id",
    "image_id",
    "split",
    "sample_index",
    "text",
    "token_ids",
    "token_starts",
    "token_ends",
    "logprobs",
    "temperature",
    "finish_reason",
    "backbone",
    "sampler",
]


# What is left of a setting where memory ran out, for as long as the policy is in memory.
_SIZES: WeakKeyDictionary[Policy, dict[tuple[str, int], HalvingSize]] = WeakKeyDictionary()


def batched(count: int, size: int) -> Iterable[range]:
    """Consecutive ranges of at most ``size`` that cover ``count``."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def sample_responses(
    policy: Policy,
    prompts: pd.DataFrame,
    open_image: ImageOpener,
    decoding: Decoding,
    responses_per_prompt: int,
    batch_size: int,
    seed: int,
    description: str = "sampling",
    reference: bool = False,
    setting: str = "response_sampling.batch_size",
    lengths: Sequence[int] | None = None,
    shards: Shards | None = None,
) -> pd.DataFrame:
    """Draw K completions for each prompt, or search for one.

    Prompts are answered in batches of similar length; each batch draws from a random state of its own, and torch's
    global one is left as it was.

    Where memory runs out, all prompts of the call are asked again with half the batch, so that the table is the one of
    that batch size from the start, wherever memory ran out; later calls with this policy begin with it.

    Args:
        policy: Samples with its adapter, or without one if ``reference``.
        prompts: Rows with ``prompt_id``, ``image_id``, ``prompt``, ``split``.
        open_image: Gives the RGB image of an id.
        decoding: Temperature (0 is greedy) and longest completion.
        responses_per_prompt: K.
        batch_size: Completions drawn at once.
        seed: Of all draws.
        description: Label of the progress bar.
        reference: Whether to sample from the reference policy.
        setting: Where ``batch_size`` comes from, for messages.
        lengths: Tokens of each prompt, its image's included; the longest are asked first, so that what does not fit
            into memory shows at once. None orders prompts by their characters, the shortest first. Which prompts share
            a batch decides what is drawn, but not what greedy decoding or beam search give.
        shards: Where finished parts of the table are kept until the whole is; None keeps none.

    Returns:
        The ``responses`` table in the order of the prompts, copies of a prompt adjacent.
    """
    if lengths is None:
        order = prompts["prompt"].str.len().sort_values(kind="stable").index
    else:
        order = pd.Series(lengths, index=prompts.index).sort_values(kind="stable", ascending=False).index
    devices = [policy.device] if policy.device.type == "cuda" else []

    # Beams take the place of copies.
    at_once = responses_per_prompt * decoding.num_beams

    def draw(size: int) -> list[dict[str, Any]]:
        batches = list(batched(len(order), max(1, size // at_once)))
        settings = ""
        if shards is not None:
            settings = _digest_of(policy, prompts.loc[order], decoding, responses_per_prompt, len(batches[0]), seed)

        def answer(number: int) -> list[dict[str, Any]]:
            part = prompts.loc[order[batches[number].start : batches[number].stop]]
            asked = (part["prompt"].tolist(), part["image_id"].tolist(), open_image)
            own_seed = seed * 1_000_003 + number
            completions = policy.sample_prompts(*asked, decoding, responses_per_prompt, own_seed, reference)
            return response_rows(policy, part, completions, responses_per_prompt, decoding.temperature)

        progress = tqdm(total=len(prompts) * responses_per_prompt, desc=description, unit="response", leave=False)
        with torch.random.fork_rng(devices=devices), progress:
            sizes = [len(batch) * responses_per_prompt for batch in batches]
            return in_shards(sizes, answer, shards, settings, progress)

    rows = _batch(policy, batch_size, setting).run(draw, smallest=at_once) if len(prompts) else []
    table = pd.DataFrame(rows, columns=RESPONSE_COLUMNS)
    position = {prompt_id: i for i, prompt_id in enumerate(prompts["prompt_id"])}
    key = table["prompt_id"].map(position)
    return table.iloc[key.argsort(kind="stable")].reset_index(drop=True)


def _digest_of(
    policy: Policy, prompts: pd.DataFrame, decoding: Decoding, responses_per_prompt: int, batch_size: int, seed: int
) -> str:
    """Tells what is asked, in which batches and how, from everything else that the same model may be asked."""
    asked = prompts[["prompt_id", "image_id", "prompt", "split"]].to_csv(index=False)
    return digest(asked, asdict(decoding), responses_per_prompt, batch_size, seed, policy.device.type)


def _batch(policy: Policy, batch_size: int, setting: str) -> HalvingSize:
    block = setting.rpartition(".")[0]
    made = HalvingSize(
        batch_size,
        setting,
        "Another size draws other samples: all prompts asked now are asked again with it, and later ones too.",
        f"Lower {block}.max_new_tokens, or load policy_backbone in bfloat16.",
    )
    return _SIZES.setdefault(policy, {}).setdefault((setting, batch_size), made)


def response_rows(
    policy: Policy, prompts: pd.DataFrame, completions: Completions, responses_per_prompt: int, temperature: float
) -> list[dict[str, Any]]:
    """Records of a batch of completions, copies of a prompt adjacent."""
    texts, offsets = policy.decode(completions.ids, completions.mask)
    ends = set(policy.eos_ids.tolist())
    rows = []
    for number, (text, spans) in enumerate(zip(texts, offsets, strict=True)):
        prompt = prompts.iloc[number // responses_per_prompt]
        counts = completions.mask[number]
        token_ids = completions.ids[number][counts].tolist()
        sample_index = number % responses_per_prompt
        rows.append(
            {
                "response_id": f"{prompt['prompt_id']}/{sample_index}",
                "prompt_id": prompt["prompt_id"],
                "image_id": prompt["image_id"],
                "split": prompt["split"],
                "sample_index": sample_index,
                "text": text,
                "token_ids": token_ids,
                "token_starts": [start for start, _ in spans],
                "token_ends": [end for _, end in spans],
                "logprobs": completions.logprobs[number][counts].tolist(),
                "temperature": temperature,
                "finish_reason": "stop" if token_ids and token_ids[-1] in ends else "length",
                "backbone": policy.identity,
                "sampler": policy.sampler,
            }
        )
    return rows


@contextmanager
def sampling_engine(
    policy: Policy,
    source: ModelSource,
    params: ResponseSamplingParams,
    prompts: pd.DataFrame,
    manifest: pd.DataFrame,
    rank: int | None = None,
) -> Iterator[None]:
    """Let the engine that the parameters name draw the policy's responses in this block, and end it afterwards.

    Without one nothing is started, and the policy samples itself.

    Args:
        policy: The policy.
        source: Its backbone.
        params: How it is asked.
        prompts: All that it may be asked in the block: rows with ``image_id``, ``prompt``.
        manifest: Rows with ``image_id``, ``width``, ``height``.
        rank: Of its adapter; None where it has none.

    Raises:
        ImportError: If the engine is not installed.
        ValueError: If it cannot sample from this policy.
    """
    if params.sampler == "in_process":
        yield
        return
    check_engine(policy, source, params.temperature)
    longest = max(token_counts(policy, prompts, manifest), default=0) + params.max_new_tokens
    policy.engine = VllmEngine(source, params.engine_memory, rank, longest)
    try:
        yield
    finally:
        policy.engine.close()
        policy.engine = None


def round_prompts(prompts: pd.DataFrame, round_index: int, prompts_per_round: int, seed: int) -> pd.DataFrame:
    """The training prompts of one round: a seeded order, gone through again from the start when it is used up.

    The order is that of a seeded hash of the prompts' ids, another one for each pass. Round 0 needs no other round to
    be known, so the sampling stage and the loop agree on it.

    Raises:
        ValueError: If there are no prompts.
    """
    if prompts.empty:
        raise ValueError("there are no training prompts: raise image_ingestion.split_fractions.training")
    wanted = min(prompts_per_round, len(prompts))
    first = round_index * wanted
    passes = range(first // len(prompts), math.ceil((first + wanted) / len(prompts)))
    orders = [seeded_choice(prompts, "prompt_id", len(prompts), seed + 7919 * number) for number in passes]
    start = first - passes.start * len(prompts)
    chosen = pd.concat(orders, ignore_index=True).iloc[start : start + wanted]
    # A window across two passes may hold a prompt twice; its responses would share ids.
    return chosen.drop_duplicates("prompt_id").reset_index(drop=True)


def stage_prompts(prompts: pd.DataFrame, params: ResponseSamplingParams) -> pd.DataFrame:
    """What the sampling stage asks: calibration prompts, and the training prompts of the first PPO round.

    Raises:
        ValueError: If a split is empty.
    """
    calibration = prompts[prompts["split"] == "calibration"]
    if calibration.empty:
        raise ValueError("there are no calibration prompts: raise image_ingestion.split_fractions.calibration")
    calibration = seeded_choice(calibration, "prompt_id", params.calibration_prompts, params.seed)
    first_round = round_prompts(prompts[prompts["split"] == "training"], 0, params.prompts_per_round, params.seed)
    return pd.concat([calibration, first_round], ignore_index=True)
