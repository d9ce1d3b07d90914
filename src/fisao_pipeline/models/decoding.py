"""Drawing completions: one prefill per prompt for all its completions, finished rows retired, exact logprobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache

from fisao_pipeline.method.logprobs import sampling_logits
from fisao_pipeline.models.backbones.generic import BackboneKind
from fisao_pipeline.models.shared_prompts import cache_of_completions
from fisao_pipeline.models.steps import steps_of


@dataclass(frozen=True)
class Completions:
    """Sampled completions, padded on the right.

    Attributes:
        ids: Token ids, [b, t]; the end token included where one was sampled.
        mask: True on sampled tokens, [b, t].
        logprobs: log π(y_t) in nats under the sampling distribution, [b, t], zero off the mask.
    """

    ids: Int[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    logprobs: Float[Tensor, "b t"]


@dataclass(frozen=True)
class Decoding:
    """How completions are drawn: ``temperature`` 0 is greedy; no top-k or top-p, so that logprobs are exact.

    With more than one beam they are searched for, see ``models.beam_search``.

    Raises:
        ValueError: Several beams and a temperature: beams are not drawn.
    """

    temperature: float
    max_new_tokens: int
    num_beams: int = 1

    def __post_init__(self) -> None:
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(f"{self.num_beams} beams and temperature {self.temperature:g}: beams are not drawn, use 0")


def draw_completions(
    kind: BackboneKind,
    inputs: dict[str, Any],
    decoding: Decoding,
    completions_per_prompt: int,
) -> Completions:
    """Draw completions of left-padded prompts, those of a prompt adjacent.

    ``generate`` runs the prompt once per completion, and most of a vision-language prompt is image tokens; here it runs
    once and its keys and values are there once, see ``models.shared_prompts``. Rows that have ended leave the batch
    when they are a quarter of it.

    Args:
        kind: Of the model, which says what is never drawn, what ends a completion and what fills up ended ones.
        inputs: Its ``inputs`` of a batch of n prompts, with ``attention_mask`` [n, p].
        decoding: Temperature and longest completion.
        completions_per_prompt: K.

    Returns:
        n · K completions.
    """
    logits, cache = kind.prefill(inputs)
    with cache_of_completions(kind.model, cache, completions_per_prompt) as cache:
        return _drawn(kind, inputs, decoding, completions_per_prompt, logits, cache)


def _drawn(
    kind: BackboneKind, inputs: dict[str, Any], decoding: Decoding, k: int, logits: Float[Tensor, "n v"], cache: Cache
) -> Completions:
    suppressed_ids, eos_ids, pad_id = kind.suppressed_ids, kind.eos_ids, kind.pad_id
    positions = kind.next_positions(inputs)
    if positions is not None:
        positions = positions.repeat_interleave(k)
    steps = steps_of(kind, cache, inputs["attention_mask"].repeat_interleave(k, dim=0), positions)
    logits = logits.repeat_interleave(k, dim=0)
    shape = (logits.shape[0], decoding.max_new_tokens)
    ids = torch.full(shape, pad_id, device=logits.device)
    mask = torch.zeros(shape, dtype=torch.bool, device=logits.device)
    logprobs = torch.zeros(shape, device=logits.device)
    # Row of the result that each row of the shrinking batch belongs to, and whether it still goes on.
    rows = torch.arange(shape[0], device=logits.device)
    alive = torch.ones_like(rows, dtype=torch.bool)
    for step in range(decoding.max_new_tokens):
        tokens, drawn = _draw(logits, decoding.temperature, suppressed_ids)
        tokens = torch.where(alive, tokens, pad_id)
        ids[rows, step] = tokens
        mask[rows, step] = alive
        logprobs[rows, step] = torch.where(alive, drawn, 0.0)
        alive = alive & ~torch.isin(tokens, eos_ids)
        count = int(alive.sum())
        if count == 0 or step + 1 == decoding.max_new_tokens:
            break
        if count <= 0.75 * len(rows):
            steps.select(alive.nonzero().squeeze(-1))
            rows, tokens, alive = rows[alive], tokens[alive], alive[alive]
        logits = steps.after(tokens, decoding.max_new_tokens - step - 2)
    return Completions(ids[:, : step + 1], mask[:, : step + 1], logprobs[:, : step + 1])


def _draw(logits: Tensor, temperature: float, suppressed_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token a row, and its log-probability under the distribution it was drawn from."""
    scaled = sampling_logits(logits, temperature if temperature > 0 else 1.0, suppressed_ids)
    logprobs = scaled.log_softmax(dim=-1)
    if temperature > 0:
        tokens = torch.multinomial(logprobs.exp(), 1)
    else:
        tokens = scaled.argmax(dim=-1, keepdim=True)
    return tokens.squeeze(-1), logprobs.gather(-1, tokens).squeeze(-1)
