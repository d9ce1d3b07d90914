"""Beam search: of each prompt the completion of highest mean log-probability among those that its beams find."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache

from fisao_pipeline.method.logprobs import sampling_logits
from fisao_pipeline.models.backbones.generic import BackboneKind
from fisao_pipeline.models.decoding import Completions, Decoding
from fisao_pipeline.models.shared_prompts import cache_of_completions

# What takes a beam out of a ranking; transformers' own number, so that sums with it round alike.
_NEVER = -1e9


@dataclass(frozen=True)
class _Beams:
    """Beams of n prompts, k of each: tokens, log-probabilities (nats), lengths, and what they are ranked by."""

    ids: Int[Tensor, "n k t"]
    logprobs: Float[Tensor, "n k t"]
    lengths: Int[Tensor, "n k"]
    scores: Float[Tensor, "n k"]

    def pick(self, index: Int[Tensor, "n j"]) -> _Beams:
        """Of each prompt the beams of the given numbers, in that order."""
        wide = index[..., None].expand(-1, -1, self.ids.shape[2])
        tokens = (self.ids.gather(1, wide), self.logprobs.gather(1, wide))
        return _Beams(*tokens, self.lengths.gather(1, index), self.scores.gather(1, index))

    def beside(self, other: _Beams) -> _Beams:
        """These beams and others of the same prompts."""
        return _Beams(*(torch.cat([getattr(self, f.name), getattr(other, f.name)], dim=1) for f in fields(self)))

    def of_prompts(self, index: Int[Tensor, " m"]) -> _Beams:
        """The beams of the given prompts."""
        return _Beams(*(getattr(self, f.name)[index] for f in fields(self)))


def search_completions(kind: BackboneKind, inputs: dict[str, Any], decoding: Decoding) -> Completions:
    """Search the best completion of each left-padded prompt with ``decoding.num_beams`` beams.

    In each step the likeliest continuations of all beams of a prompt go on. One that ends is set aside with its score
    (Σ log π(y_t)) / length; a prompt is done when no open beam, at its present length, beats the worst of as many ended
    ones as there are beams. Prompts that are done leave the batch, and none depends on its neighbours.

    The result is that of transformers' ``generate(num_beams=…, renormalize_logits=True)`` with its defaults
    (`early_stopping` false, `length_penalty` 1). Renormalised, because a suppressed token has no probability here.

    Args:
        kind: Of the model, which says what is never drawn, what ends a completion and what fills up ended ones.
        inputs: Its ``inputs`` of a batch of n prompts, with ``attention_mask`` [n, p].
        decoding: Beams and longest completion.

    Returns:
        n completions.

    Source: transformers, generation/utils.py, `_beam_search`.
    """
    logits, cache = kind.prefill(inputs)
    with cache_of_completions(kind.model, cache, decoding.num_beams) as cache:
        return _found(kind, inputs, decoding, logits, cache)


def _found(
    kind: BackboneKind, inputs: dict[str, Any], decoding: Decoding, logits: Float[Tensor, "n v"], cache: Cache
) -> Completions:
    k, longest = decoding.num_beams, decoding.max_new_tokens
    positions = kind.next_positions(inputs)
    n, device = logits.shape[0], logits.device
    logits = logits.repeat_interleave(k, dim=0)
    attention = inputs["attention_mask"].repeat_interleave(k, dim=0)
    positions = positions.repeat_interleave(k) if positions is not None else None
    nothing = _nothing(n, k, longest, kind.pad_id, device)
    # All beams begin alike, so the first step goes on from one of them.
    running = replace(nothing, scores=nothing.scores.index_fill(1, torch.tensor([0], device=device), 0.0))
    ended = nothing
    # The prompts that are still in the batch, by their row of the result, and whether each may still get better.
    rows, is_open = torch.arange(n, device=device), torch.ones(n, dtype=torch.bool, device=device)
    best: list[tuple[int, _Beams]] = []
    for step in range(longest):
        candidates, from_beam = _continuations(running, logits, step, kind)
        ends = torch.isin(candidates.ids[:, :, step], kind.eos_ids) | (step + 1 == longest)
        ended = _with_ended(ended, candidates, ends, is_open)
        running, chosen = _going_on(candidates, ends, k)
        is_open = is_open & _can_improve(running, ended)
        done = ~is_open if step + 1 < longest else torch.ones_like(is_open)
        if done.all() or done.sum() >= 0.25 * len(rows):
            best += [(int(rows[i]), ended.of_prompts(i[None])) for i in done.nonzero().squeeze(-1)]
            if done.all():
                break
        else:
            done = torch.zeros_like(done)
        still = (~done).nonzero().squeeze(-1)
        places = (still[:, None] * k + from_beam.gather(1, chosen)[still]).flatten()
        cache.batch_select_indices(places)
        attention = torch.cat([attention[places], attention.new_ones(len(places), 1)], dim=1)
        positions = positions[places] if positions is not None else None
        running, ended, rows, is_open = running.of_prompts(still), ended.of_prompts(still), rows[still], is_open[still]
        following = positions + step if positions is not None else None
        logits, cache = kind.step(running.ids[:, :, step].flatten(), attention, cache, following)
    return _completions([beams for _, beams in sorted(best, key=lambda pair: pair[0])])


def _nothing(n: int, k: int, longest: int, pad_id: int, device: torch.device) -> _Beams:
    return _Beams(
        torch.full((n, k, longest), pad_id, device=device),
        torch.zeros((n, k, longest), device=device),
        torch.zeros((n, k), dtype=torch.long, device=device),
        torch.full((n, k), _NEVER, device=device),
    )


def _continuations(
    running: _Beams, logits: Float[Tensor, "nk v"], step: int, kind: BackboneKind
) -> tuple[_Beams, Int[Tensor, "n j"]]:
    """The likeliest beams of one more token, best first, with Σ log π as score, and the beam that each goes on from.

    As many as leave k that go on, whatever end tokens are among them.
    """
    n, k = running.scores.shape
    logprobs = sampling_logits(logits, 1.0, kind.suppressed_ids).log_softmax(dim=-1).view(n, k, -1)
    size = logprobs.shape[-1]
    keep = min(k * size, k * max(2, 1 + len(kind.eos_ids)))
    scores, flat = (logprobs + running.scores[..., None]).flatten(1).topk(keep)
    from_beam = flat // size
    grown = running.pick(from_beam)
    grown.ids[:, :, step] = flat % size
    grown.logprobs[:, :, step] = logprobs.flatten(1).gather(1, flat)
    return replace(grown, lengths=grown.lengths + 1, scores=scores), from_beam


def _with_ended(ended: _Beams, candidates: _Beams, ends: Bool[Tensor, "n j"], is_open: Bool[Tensor, " n"]) -> _Beams:
    """The k best ended beams, now that these candidates are there; of them only the k likeliest may end."""
    k = ended.scores.shape[1]
    counts = ends & is_open[:, None] & (torch.arange(ends.shape[1], device=ends.device) < k)
    # Lengths are those of the step, the same for all candidates.
    means = torch.where(counts, candidates.scores / candidates.lengths, _NEVER)
    merged = ended.beside(replace(candidates, scores=means))
    return merged.pick(merged.scores.topk(k).indices)


def _going_on(candidates: _Beams, ends: Bool[Tensor, "n j"], k: int) -> tuple[_Beams, Int[Tensor, "n k"]]:
    """The k likeliest candidates that do not end, and which they are."""
    open_ones = replace(candidates, scores=candidates.scores + ends * _NEVER)
    chosen = open_ones.scores.topk(k).indices
    return open_ones.pick(chosen), chosen


def _can_improve(running: _Beams, ended: _Beams) -> Bool[Tensor, " n"]:
    """Whether the likeliest open beam, were it to end now, would be among the k best ended ones."""
    return running.scores[:, 0] / running.lengths[:, 0] > ended.scores.amin(dim=1)


def _completions(best: list[_Beams]) -> Completions:
    ids, logprobs, lengths = (
        torch.cat([getattr(b, name)[:, 0] for b in best]) for name in ("ids", "logprobs", "lengths")
    )
    width = int(lengths.max())
    mask = torch.arange(width, device=ids.device) < lengths[:, None]
    return Completions(ids[:, :width], mask, logprobs[:, :width])
