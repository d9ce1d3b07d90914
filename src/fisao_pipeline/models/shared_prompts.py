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
from transformers.integrations.sdpa_attention import sdpa_attention_forward
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
        for layer in shared.layers:
            layer.check_read()
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
        keys = cache.layers[0].keys
        owner = torch.arange(keys.shape[0], device=keys.device).repeat_interleave(completions)
        self.grid = _Grid(owner, keys.shape[0], completions)
        super().__init__(layers=[_Layer(layer, self.grid) for layer in cache.layers])

    def batch_select_indices(self, indices: Int[Tensor, " r"]) -> None:
        """Go on with these rows, in whose order those of a prompt are still adjacent; one may be there repeatedly."""
        k = self.grid.k
        source, kept = self.grid.select(indices)
        for layer in self.layers:
            layer.select(source // k, source % k, kept)

    @property
    def length(self) -> int:
        """Tokens of each row that are there."""
        return self.layers[0].length

    @property
    def room(self) -> int:
        """Tokens of each row that there is room for, those that are there included."""
        return self.layers[0].room

    def make_room(self) -> None:
        """Make room for more: what a step reads lies elsewhere from now on."""
        for layer in self.layers:
            layer.make_room()

    @contextmanager
    def fixed_shapes(self, place: Int[Tensor, ""]) -> Iterator[None]:
        """Within it, a step does the same operations on the same memory however many tokens there are.

        All places for tokens are looked at, and the step's mask says which of them count; for one token more there must
        be room. What steps take in here counts once ``took_in`` says so.

        Args:
            place: Where the next token goes, ``length`` as a tensor of the model's device; read by the device alone.
        """
        self.grid.place = place
        try:
            yield
            for layer in self.layers:
                layer.check_read()
        finally:
            self.grid.forget_place()
            for layer in self.layers:
                layer.is_read = True

    def took_in(self, tokens: int = 1) -> None:
        """Count so many more tokens of each row."""
        for layer in self.layers:
            layer.length += tokens


class _Grid:
    """Rows in a grid of n prompts and k places, of which some are empty where a prompt has fewer rows than others."""

    def __init__(self, owner: Int[Tensor, " r"], prompts: int, k: int) -> None:
        self.place: Tensor | None = None  # of the next token, where shapes are fixed
        self._deal(owner, prompts, k)

    def _deal(self, owner: Int[Tensor, " r"], prompts: int, k: int) -> None:
        self.owner, self.prompts, self.k = owner, prompts, k
        self.is_full = len(owner) == prompts * k
        self.first = torch.searchsorted(owner, torch.arange(prompts, device=owner.device))
        number = torch.arange(len(owner), device=owner.device) - self.first[owner]
        # Each row's place, prompt · k + its number among that prompt's.
        self.slots = owner * k + number
        self._bias: tuple[Tensor, Tensor, Tensor] | None = None

    def forget_place(self) -> None:
        """Shapes are fixed no longer."""
        self.place = self._bias = None

    def select(self, indices: Int[Tensor, " r"]) -> tuple[Int[Tensor, " nk"], Int[Tensor, " n"] | None]:
        """Deal these rows anew, into a grid as small as will do.

        Returns:
            The old place of what is in each place of the new grid, any where nothing is; and the prompts to be kept,
            None for all.
        """
        old, before = self.slots[indices], self.prompts
        kept, counts = self.owner[indices].unique_consecutive(return_counts=True)
        self._deal(torch.searchsorted(kept, self.owner[indices]), len(kept), int(counts.max()))
        source = old.new_zeros(self.prompts * self.k).index_copy_(0, self.slots, old)
        return source, kept if len(kept) < before else None

    def put(self, x: Tensor) -> Tensor:
        """[r, h, …] as [n, h, k, …], zero where there is no row."""
        if not self.is_full:
            empty = x.new_zeros(self.prompts * self.k, *x.shape[1:])
            x = empty.index_copy_(0, self.slots.to(x.device), x)
        return x.view(self.prompts, self.k, *x.shape[1:]).transpose(1, 2)

    def take(self, x: Tensor) -> Tensor:
        """The way back."""
        x = x.transpose(1, 2).flatten(0, 1)
        return x if self.is_full else x.index_select(0, self.slots.to(x.device))

    def biases(
        self, mask: Bool[Tensor, "r 1 1 s"], heads: int, tokens: int
    ) -> tuple[Float[Tensor, "nh 1 p"], Float[Tensor, " t"]]:
        """What a step's mask adds to scores, 0 or -inf, the same for all layers.

        A row's own tokens all count, or where shapes are fixed as many as are there, alike for all rows.

        Returns:
            Of the prompts' tokens, and of a row's own.

        Raises:
            TypeError: The mask is none of yes and no.
        """
        if self._bias is None or self._bias[0] is not mask:
            if mask.dtype != torch.bool:
                raise TypeError(f"attention with a mask of {mask.dtype} is not this one: it takes True and False")
            hidden = ~mask[self.first.to(mask.device), 0]
            bias = torch.zeros_like(hidden, dtype=torch.float32).masked_fill_(hidden, -torch.inf)
            of_prompt = bias[:, None, :, :tokens].expand(-1, heads, -1, -1).flatten(0, 1)
            self._bias = mask, of_prompt, bias[0, 0, tokens:]
        return self._bias[1:]


class _Layer(DynamicLayer):
    """One layer's: ``keys`` and ``values`` are the rows' in their grid, [n, h, k, t, d], with room at the end of t."""

    def __init__(self, prompts: DynamicLayer, grid: _Grid) -> None:
        super().__init__()
        self.prompt_keys, self.prompt_values = prompts.keys, prompts.values
        self.grid, self.length, self.is_read = grid, 0, True
        self.lazy_initialization(prompts.keys, prompts.values)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        n, h, k = self.grid.prompts, key_states.shape[1], self.grid.k
        self.keys = key_states.new_empty(n, h, k, 0, key_states.shape[-1])
        self.values = value_states.new_empty(n, h, k, 0, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take in one more token a row.

        Returns:
            What was given: ``attend`` reads the rest where it is.

        Raises:
            RuntimeError: The attention has not looked at the cache.
        """
        self.check_read()
        self.is_read, place = False, self.grid.place
        taken = (self.grid.put(key_states[:, :, 0]), self.grid.put(value_states[:, :, 0]))
        if place is not None:
            for all_of_them, new in zip((self.keys, self.values), taken, strict=True):
                all_of_them.index_copy_(-2, place.view(1), new.unsqueeze(-2))
            return key_states, value_states
        if self.length == self.room:
            self.make_room()
        for all_of_them, new in zip((self.keys, self.values), taken, strict=True):
            all_of_them.select(-2, self.length).copy_(new)
        self.length += 1
        return key_states, value_states

    @property
    def is_compileable(self) -> bool:
        """Whether transformers makes a step's mask without asking the device whether it is needed."""
        return self.grid.place is not None

    @property
    def room(self) -> int:
        return self.keys.shape[-2]

    def make_room(self) -> None:
        self.keys = _with_room(self.keys)  # one after the other, so that one only is there twice
        self.values = _with_room(self.values)

    def check_read(self) -> None:
        """Every token that was taken in must have been attended with.

        Raises:
            RuntimeError: It was not.
        """
        if not self.is_read:
            raise RuntimeError("a layer's attention read its cache without the prompts: it is not the model's own")

    def get_seq_length(self) -> int | Int[Tensor, ""]:
        """Tokens before the step's; where shapes are fixed the device alone knows, as in transformers' static one."""
        return self.prompt_keys.shape[-2] + (self.length if self.grid.place is None else self.grid.place)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Width of a step's mask, and where it begins."""
        own = self.length + query_length if self.grid.place is None else self.room
        return self.prompt_keys.shape[-2] + own, 0

    def select(self, prompts: Int[Tensor, " nk"], places: Int[Tensor, " nk"], kept: Int[Tensor, " n"] | None) -> None:
        """Fill the new grid from these places of the old one, and keep these prompts; None for all."""
        prompts, places, grid = prompts.to(self.keys.device), places.to(self.keys.device), self.grid
        for name in ("keys", "values"):
            picked = getattr(self, name)[prompts, :, places]
            setattr(self, name, picked.view(grid.prompts, grid.k, *picked.shape[1:]).transpose(1, 2).contiguous())
        if kept is not None:
            self.prompt_keys = self.prompt_keys.index_select(0, kept.to(self.keys.device))
            self.prompt_values = self.prompt_values.index_select(0, kept.to(self.keys.device))

    def attend(
        self, query: Float[Tensor, "r H 1 d"], mask: Bool[Tensor, "r 1 1 s"] | None, scaling: float
    ) -> Float[Tensor, "r 1 H e"]:
        """Attention over a row's prompt, p tokens, and its own, t tokens; scores and sums in float32.

        The fewest operations that do it, for on a GPU a step lasts as long as they take to launch. Without a mask all
        count.
        """
        self.is_read = True
        grid, (n, h, p, d), e = self.grid, self.prompt_keys.shape, self.values.shape[-1]
        r, heads, k, g = query.shape[0], query.shape[1], grid.k, query.shape[1] // h
        query = grid.put(query.reshape(r, h, g, d)).contiguous().view(n * h, k * g, d)
        counted = self.length if grid.place is None else self.room
        keys, values = (x[..., :counted, :].flatten(0, 2) for x in (self.keys, self.values))
        to_prompt = _product(query, self.prompt_keys.flatten(0, 1).mT)
        to_own = _product(query.view(n * h * k, g, d), keys.mT)
        if mask is not None:
            of_prompt, of_own = grid.biases(mask, h, p)
            to_prompt += of_prompt.to(to_prompt.device)
            if grid.place is not None:
                to_own += of_own.to(to_own.device)
        scores = torch.cat([to_prompt.view(n * h * k, g, p), to_own], dim=-1).mul_(scaling)
        weights = scores.softmax(dim=-1).to(values.dtype)
        seen = _product(weights.view(n * h, k * g, -1)[..., :p], self.prompt_values.flatten(0, 1))
        seen = seen.view(n * h * k, g, e).add_(_product(weights[..., p:], values))
        return grid.take(seen.to(values.dtype).view(n, h, k, g, e)).reshape(r, 1, heads, e)


def _with_room(x: Float[Tensor, "n h k t d"]) -> Float[Tensor, "n h k t+ROOM d"]:
    # Zeros, as what is not there yet is looked at where shapes are fixed, and 0 · NaN is none.
    return torch.cat([x, x.new_zeros(*x.shape[:-2], ROOM, x.shape[-1])], dim=-2)


def _product(a: Float[Tensor, "b i j"], b: Float[Tensor, "b j k"]) -> Float[Tensor, "b i k"]:
    """Products of matrices, summed up and given in float32."""
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


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
    cache = _READ.get(None)
    if cache is None:  # another thread draws with this model, whose attention it has switched
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
    unknown = sorted(name for name in ("softcap", "position_bias", "s_aux") if more.get(name) is not None)
    if unknown:
        raise ValueError(f"attention with {', '.join(unknown)} is not this one: set attn_implementation to eager")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = cache.layers[module.layer_idx]
    if not torch.is_autocast_enabled(query.device.type):
        return layer.attend(query, attention_mask, scaling), None
    # What autocast would round is asked for in float32.
    with torch.autocast(query.device.type, enabled=False):
        return layer.attend(query, attention_mask, scaling), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
