"""A key-value cache for the completions of prompts: one copy of each prompt's, and room ahead for what is drawn.

transformers' own cache keeps a copy of the prompt for every completion, and writes all of itself anew for each token. A
vision-language prompt is mostly image, hundreds of tokens, so that is nearly all memory and time of a step. Here the
completions of a prompt look at one copy of it together (Athiwaratkun et al. 2024, "Bifurcated attention",
arXiv:2403.08845), and then each at its own tokens, under one softmax: the same attention, computed in another order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache as once
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.masking_utils import sdpa_mask

logger = logging.getLogger(__name__)

ROOM = 32  # tokens that room is made for at a time
_NAME = "shared_prompts"  # of the attention, among transformers' own


@contextmanager
def cache_of_completions(model: PreTrainedModel, cache: Cache, completions: int) -> Iterator[Cache]:
    """A cache of prompts as one of so many completions of each, those of a prompt adjacent.

    Where that is not possible (see ``unshared_reason``) it is transformers' own, repeated.

    Args:
        model: It reads the cache within this context, in steps of one token a row, without gradients.
        cache: Of the prompts, as the model has filled it.
        completions: K.
    """
    reason = unshared_reason(model, cache)
    if reason is not None:
        if completions > 1:
            _say(reason)
        cache.batch_repeat_interleave(completions)
        yield cache
        return
    config = model.get_decoder().config
    shared = SharedPrompts(cache, completions)
    del cache  # prompts whose completions have all ended are let go
    token = _READ.set(shared)
    config._attn_implementation = _NAME
    try:
        yield shared
    finally:
        config._attn_implementation = "sdpa"
        _READ.reset(token)


def unshared_reason(model: PreTrainedModel, cache: Cache | None = None) -> str | None:
    """Why each completion keeps a copy of its prompt's keys and values; None for a model whose completions share one.

    Args:
        model: Its weights there or not.
        cache: One that it has filled; by default what its configuration asks for.
    """
    config = model.get_decoder().config
    if config._attn_implementation != "sdpa":
        return f"attention {config._attn_implementation!r} is not torch's"
    layers = (DynamicCache(config=config) if cache is None else cache).layers
    if any(type(layer) is not DynamicLayer for layer in layers):
        return "some layers keep something else than the keys and values of all tokens"
    return None


@once
def _say(reason: str) -> None:
    logger.info("Each completion is drawn with its own copy of the prompt's keys and values: %s.", reason)


class SharedPrompts(Cache):
    """Keys and values of n prompts and of r rows, their completions; rows of a prompt are adjacent, in its order."""

    def __init__(self, cache: Cache, completions: int) -> None:
        prompts, device = cache.layers[0].keys.shape[0], cache.layers[0].keys.device
        self.rows = _Rows(torch.arange(prompts, device=device).repeat_interleave(completions), prompts, completions)
        super().__init__(layers=[_Layer(layer, self.rows) for layer in cache.layers])

    def batch_select_indices(self, indices: Int[Tensor, " r"]) -> None:
        """Go on with these rows, in whose order those of a prompt are still adjacent; one may be there repeatedly."""
        kept = self.rows.select(indices)
        for layer in self.layers:
            layer.select(indices, kept)


class _Rows:
    """Which prompt each row goes on from, and its place among k of that prompt's."""

    owner: Int[Tensor, " r"]
    slot: Int[Tensor, " r"] | None  # prompt · k + place; None where all n · k are there

    def __init__(self, owner: Int[Tensor, " r"], prompts: int, k: int) -> None:
        self.prompts, self.k = prompts, k
        self._own(owner)

    def _own(self, owner: Int[Tensor, " r"]) -> None:
        self.owner, self.slot = owner, None
        if len(owner) < self.prompts * self.k:
            # Any places of its own for each of at most k adjacent rows.
            self.slot = owner * self.k + torch.arange(len(owner), device=owner.device) % self.k

    def select(self, indices: Int[Tensor, " r"]) -> Int[Tensor, " n"] | None:
        """Keep these rows.

        Returns:
            The prompts to be kept, when a quarter of them have no row any more; otherwise None, for all.
        """
        owner = self.owner[indices]
        kept = owner.unique_consecutive()
        if len(kept) > 0.75 * self.prompts:
            self._own(owner)
            return None
        self.prompts = len(kept)
        self._own(torch.searchsorted(kept, owner))
        return kept

    def by_prompt(self, x: Tensor) -> Tensor:
        """[r, h, g, e] as [n, h, k · g, e], zero where a row has gone."""
        if self.slot is not None:
            x = x.new_zeros(self.prompts * self.k, *x.shape[1:]).index_copy_(0, self.slot, x)
        h, g, e = x.shape[1:]
        return x.view(self.prompts, self.k, h, g, e).transpose(1, 2).reshape(self.prompts, h, self.k * g, e)

    def by_row(self, x: Tensor) -> Tensor:
        """The way back."""
        n, h, kg, e = x.shape
        x = x.view(n, h, self.k, kg // self.k, e).transpose(1, 2).reshape(n * self.k, h, kg // self.k, e)
        return x if self.slot is None else x.index_select(0, self.slot)


class _Layer(DynamicLayer):
    """One layer's: ``keys`` and ``values`` are the rows', with room at their end."""

    def __init__(self, prompts: DynamicLayer, rows: _Rows) -> None:
        super().__init__()
        self.prompt_keys, self.prompt_values = prompts.keys, prompts.values
        self.rows, self.length, self.is_read = rows, 0, True
        self.lazy_initialization(prompts.keys, prompts.values)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        r, h = len(self.rows.owner), key_states.shape[1]
        self.keys = key_states.new_empty(r, h, 0, key_states.shape[-1])
        self.values = value_states.new_empty(r, h, 0, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take in one more token a row.

        Returns:
            Keys and values of the rows' own tokens; those of the prompts are ``attend``'s.

        Raises:
            RuntimeError: The attention has not looked at the prompts.
        """
        if not self.is_read:
            raise RuntimeError("a layer's attention read its cache without the prompts: it is not the model's own")
        if self.length == self.keys.shape[-2]:
            self.keys = _with_room(self.keys)  # one after the other, so that one only is there twice
            self.values = _with_room(self.values)
        self.keys[:, :, self.length] = key_states[:, :, 0]
        self.values[:, :, self.length] = value_states[:, :, 0]
        self.length, self.is_read = self.length + 1, False
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.prompt_keys.shape[-2] + self.length

    def select(self, indices: Int[Tensor, " r"], kept: Int[Tensor, " n"] | None) -> None:
        self.keys, self.values = self.keys.index_select(0, indices), self.values.index_select(0, indices)
        if kept is not None:
            self.prompt_keys = self.prompt_keys.index_select(0, kept)
            self.prompt_values = self.prompt_values.index_select(0, kept)

    def attend(
        self,
        query: Float[Tensor, "r H 1 d"],
        key: Float[Tensor, "r h t d"],
        value: Float[Tensor, "r h t e"],
        mask: Bool[Tensor, "r 1 1 s"] | None,
        scaling: float,
    ) -> Float[Tensor, "r 1 H e"]:
        """Attention over a row's prompt and its own tokens, s = p + t; scores and sums in float32."""
        self.is_read = True
        (r, heads, _, d), h = query.shape, key.shape[1]
        query = query.reshape(r, h, heads // h, d)
        to_prompt = _product(self.rows.by_prompt(query), self.prompt_keys.transpose(-1, -2))
        to_own = _product(query, key.transpose(-1, -2))
        scores = torch.cat([self.rows.by_row(to_prompt), to_own], dim=-1) * scaling
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = scores.softmax(dim=-1).to(value.dtype)
        of_prompt, of_own = weights.split([to_prompt.shape[-1], to_own.shape[-1]], dim=-1)
        seen = self.rows.by_row(_product(self.rows.by_prompt(of_prompt), self.prompt_values))
        return (seen + _product(of_own, value)).to(value.dtype).reshape(r, 1, heads, value.shape[-1])


def _with_room(x: Float[Tensor, "r h t d"]) -> Float[Tensor, "r h t+ROOM d"]:
    return torch.cat([x, x.new_empty(*x.shape[:2], ROOM, x.shape[-1])], dim=-2)


def _product(a: Float[Tensor, "b h i j"], b: Float[Tensor, "b h j k"]) -> Float[Tensor, "b h i k"]:
    """A · b, summed up and given in float32."""
    if a.dtype == torch.float32:
        return a @ b
    if a.is_cuda:
        flat = torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out_dtype=torch.float32)
        return flat.view(*a.shape[:-1], b.shape[-1])
    return a.float() @ b.float()


_READ: ContextVar[SharedPrompts] = ContextVar("the cache that attention reads")


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it, of a step."""
    unknown = sorted(name for name in ("softcap", "position_bias", "s_aux") if more.get(name) is not None)
    if unknown:
        raise ValueError(f"attention with {', '.join(unknown)} is not this one: set attn_implementation to eager")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    # What autocast would round is asked for in float32.
    with torch.autocast(query.device.type, enabled=False):
        layer = _READ.get().layers[module.layer_idx]
        return layer.attend(query, key, value, attention_mask, scaling), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
