"""Completions that share their prompt's keys and values: as with a copy each, whatever leaves the batch."""

import gc
import logging
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from tests.pocket_models import favour, stir
from transformers import DynamicCache, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from fisao_pipeline.models import decoding, shared_prompts
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.shared_prompts import SharedPrompts, cache_of_completions, unshared_reason

HEADS, PROMPT = 4, 7


@contextmanager
def copies(model, cache, completions):
    """transformers' own cache, a copy of the prompt for each completion."""
    cache.batch_repeat_interleave(completions)
    yield cache


def llama(key_value_heads: int, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=key_value_heads,
        vocab_size=97,
        attn_implementation="sdpa",
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval().to(dtype)


class Run:
    """Steps of a model over rows that leave or are repeated, on one kind of cache."""

    def __init__(self, model, way, k):
        self.model, self.way, self.k = model, way, k
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(1, 97, (3, PROMPT), generator=generator)
        self.mask = torch.ones_like(self.ids)
        self.mask[1, :3] = 0  # padded on the left
        self.tokens = torch.randint(1, 97, (20, 3 * k), generator=generator)

    @torch.no_grad()
    def logits(self, selections):
        """Of each step, before which those rows are chosen that ``selections`` names."""
        found = []
        cache = self.model(input_ids=self.ids, attention_mask=self.mask, use_cache=True).past_key_values
        with self.way(self.model, cache, self.k) as cache:
            mask = self.mask.repeat_interleave(self.k, dim=0)
            for step, rows in enumerate(selections):
                if rows is not None:
                    cache.batch_select_indices(torch.tensor(rows))
                    mask = mask[rows]
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
                tokens = self.tokens[step, : len(mask), None]
                output = self.model(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True)
                found.append(output.logits[:, -1])
        return found


SELECTIONS = {
    "all go on": [None] * 4,
    "some of each prompt leave": [None, [0, 2, 3, 4, 5, 8, 9, 10], None, [0, 1, 3, 5], None],
    "a prompt leaves": [None, [0, 1, 2, 3, 8, 9, 10, 11], None, [1, 5, 6], [2], None],
    "the first leaves": [[8, 9, 11], None, None],
    "beams": [[0, 0, 2, 1, 5, 4, 4, 4, 11, 10, 9, 8], None, [1, 1, 1, 0, 8, 8, 8, 8]],
}


@pytest.mark.parametrize("key_value_heads", [HEADS, 2, 1])
@pytest.mark.parametrize("name", SELECTIONS)
def test_the_logits_are_those_with_a_copy_each(name, key_value_heads, monkeypatch):
    monkeypatch.setattr(shared_prompts, "ROOM", 2)
    model = llama(key_value_heads)
    ours, theirs = (Run(model, way, 4).logits(SELECTIONS[name]) for way in (cache_of_completions, copies))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_one_completion_of_each_prompt():
    model = llama(2)
    ours, theirs = (Run(model, way, 1).logits([None, [0, 2], None]) for way in (cache_of_completions, copies))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_sixteen_bits_are_as_exact_as_torchs_attention():
    """Against the same weights in float32: summed up in float32, it is not further off than what it replaces."""
    exact = Run(llama(2), copies, 4).logits([None] * 6)
    small = llama(2).to(torch.bfloat16)
    gaps = []
    for way in (cache_of_completions, copies):
        logits = Run(small, way, 4).logits([None] * 6)
        assert logits[0].dtype == torch.bfloat16
        gaps.append(torch.stack([(a.float() - b).abs().mean() for a, b in zip(logits, exact, strict=True)]).mean())
    assert gaps[0] < 1.2 * gaps[1]


def test_a_prompt_is_there_once_and_goes_with_its_last_completion():
    model = llama(2)
    run = Run(model, cache_of_completions, 4)
    with torch.no_grad():
        cache = model(input_ids=run.ids, attention_mask=run.mask, use_cache=True).past_key_values
    keys = cache.layers[0].keys
    with cache_of_completions(model, cache, 4) as shared:
        layer = shared.layers[0]
        assert layer.prompt_keys is keys, "not copied"
        shared.batch_select_indices(torch.arange(4, 12))
        assert layer.prompt_keys.shape[0] == 2
        shared.batch_select_indices(torch.tensor([0, 4, 5]))
        assert layer.prompt_keys.shape[0] == 2, "both prompts still have a row"
        assert shared.grid.owner.tolist() == [0, 1, 1]
        assert layer.keys.shape[:3] == (2, 2, 2) and shared.get_seq_length() == PROMPT


def test_a_prompt_that_is_left_takes_no_memory():
    model = llama(2)
    run = Run(model, cache_of_completions, 4)
    with torch.no_grad():
        cache = model(input_ids=run.ids, attention_mask=run.mask, use_cache=True).past_key_values
    whole = weakref.ref(cache.layers[0].keys)
    with cache_of_completions(model, cache, 4) as cache:
        assert whole() is not None
        cache.batch_select_indices(torch.arange(8))
        assert whole() is None
        rest = weakref.ref(cache.layers[0].prompt_keys)
    gc.disable()
    try:
        del cache
        assert rest() is None, "gone at once, not when the collector comes by"
    finally:
        gc.enable()


def test_products_of_sixteen_bits_are_not_rounded_to_them():
    torch.manual_seed(0)
    a, b = torch.randn(3, 4, 64).bfloat16(), torch.randn(3, 64, 5).bfloat16()
    exact = (a.double() @ b.double()).float()
    torch.testing.assert_close(shared_prompts._product(a, b), exact, atol=1e-5, rtol=1e-5)


def test_autocast_rounds_nothing_more():
    torch.manual_seed(0)
    model = llama(2, torch.bfloat16)
    run = Run(model, cache_of_completions, 4)
    with torch.no_grad():
        cache = model(input_ids=run.ids, attention_mask=run.mask, use_cache=True).past_key_values
    with cache_of_completions(model, cache, 4) as cache:
        query, key = 3 * torch.randn(12, HEADS, 1, 8).bfloat16(), torch.randn(12, 2, 1, 8).bfloat16()
        attention, own = model.model.layers[0].self_attn, cache.update(key, key, 0)
        without = shared_prompts._attention(attention, query, *own, None)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(shared_prompts._attention(attention, query, *own, None)[0], without)


def test_attention_is_put_back_after_an_error():
    model = llama(2)
    run = Run(model, cache_of_completions, 2)
    run.tokens[2, 0] = 10_000  # there is no such token
    with pytest.raises(IndexError):
        run.logits([None] * 4)
    assert model.config._attn_implementation == "sdpa"
    assert Run(model, copies, 2).logits([None])[0].shape == (6, 97)


def test_attention_that_leaves_the_prompts_out_is_noticed():
    model = llama(2)
    run = Run(model, cache_of_completions, 2)
    run.mask[:] = 1  # with padding there is a mask, which does not fit

    @contextmanager
    def sabotaged(*arguments):
        with cache_of_completions(*arguments) as cache:
            model.config._attn_implementation = "sdpa"
            yield cache

    run.way = sabotaged
    for steps in (3, 1):
        with pytest.raises(RuntimeError, match="without the prompts"):
            run.logits([None] * steps)


def test_what_else_attention_does_is_refused():
    model = llama(2)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.ones(1, 3, dtype=torch.long), past_key_values=cache, use_cache=True)
    query, key, attention = torch.zeros(2, HEADS, 1, 8), torch.zeros(2, 2, 1, 8), model.model.layers[0].self_attn
    for mask, more, error in (
        (None, {"softcap": 30.0}, ValueError),
        (torch.zeros(2, 1, 1, 4), {}, TypeError),
    ):
        with pytest.raises(error, match="not this one"), cache_of_completions(model, cache, 2) as shared:
            shared_prompts._attention(attention, query, *shared.update(key, key, 0), mask, **more)


def test_where_it_is_not_possible_each_has_a_copy(world, caplog):
    shared_prompts._say.cache_clear()
    source = replace(world.policy_source, options={"model": {"attn_implementation": "eager"}})
    policies = [Policy.load(each) for each in (source, world.policy_source)]
    batch = world.batch(policies[0])
    drawn = []
    with caplog.at_level(logging.INFO):
        for policy in (policies[0], *policies):
            torch.manual_seed(0)
            drawn.append(policy.sample(batch, Decoding(1.0, 6), 3).ids)
    assert [r.message for r in caplog.records if "copy" in r.message] == [
        "Each completion is drawn with its own copy of the prompt's keys and values: attention 'eager' is not torch's."
    ]
    assert torch.equal(drawn[1], drawn[2])


def test_a_sliding_window_is_left_to_transformers():
    class Model:
        def get_decoder(self):
            return type("Decoder", (), {"config": Gemma3TextConfig(attn_implementation="sdpa")})

    assert "some layers" in unshared_reason(Model())
    assert unshared_reason(llama(2)) is None


@pytest.mark.parametrize("k", [1, 4])
def test_the_same_is_drawn(world, monkeypatch, k):
    """Completions that end early, each at another length: rows and prompts leave on the way."""
    policy = favour(stir(world.policy()), world.policy().tokenizer.eos_token_id, 4.0)
    batch = world.batch(policy, 8)
    drawn, seen = [], []
    select = SharedPrompts.batch_select_indices
    monkeypatch.setattr(
        SharedPrompts, "batch_select_indices", lambda self, rows: (select(self, rows), seen.append(self.grid.prompts))
    )
    for way in (cache_of_completions, copies):
        monkeypatch.setattr(decoding, "cache_of_completions", way)
        torch.manual_seed(3)
        drawn.append(policy.sample(batch, Decoding(1.0, 14), k))
    assert torch.equal(drawn[0].ids, drawn[1].ids)
    torch.testing.assert_close(drawn[0].logprobs, drawn[1].logprobs, atol=1e-5, rtol=0)
    assert seen and min(seen) < 8, "no prompt has left: nothing was tried"


def test_another_thread_that_meets_the_switched_attention_has_its_own_copies():
    model = llama(2)
    alone = Run(model, copies, 4).logits([None] * 3)
    run = Run(model, cache_of_completions, 4)
    with torch.no_grad():
        cache = model(input_ids=run.ids, attention_mask=run.mask, use_cache=True).past_key_values
    with cache_of_completions(model, cache, 4), ThreadPoolExecutor(1) as pool:
        other = pool.submit(Run(model, cache_of_completions, 4).logits, [None] * 3).result()
    for mine, theirs in zip(other, alone, strict=True):
        torch.testing.assert_close(mine, theirs)
