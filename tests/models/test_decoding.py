"""Sampling: the tokens and the log-probabilities that scoring would give them, whatever else is in the batch."""

import pytest
import torch
from tests.pocket_models import favour, stir

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy

SAMPLED = Decoding(temperature=0.7, max_new_tokens=14)
GREEDY = Decoding(temperature=0.0, max_new_tokens=14)


def ending(world, logit: float = 4.0) -> Policy:
    """A policy whose completions end early, each at another length."""
    policy = stir(world.policy())
    return favour(policy, policy.tokenizer.eos_token_id, logit)


def draw(policy, batch, decoding, k=1, seed=0, reference=False):
    torch.manual_seed(seed)
    return policy.sample(batch, decoding, k, reference)


@torch.no_grad()
def rescored(policy, batch, completions, temperature, reference=False):
    return policy.score(batch, completions.ids, completions.mask, temperature, reference)[0]


def copies(batch, k):
    return batch.rows([row for row in range(len(batch)) for _ in range(k)])


@pytest.mark.parametrize("reference", [False, True])
def test_greedy_is_what_generate_gives(world, reference):
    policy = stir(world.policy(), scale=0.3)
    batch = world.batch(policy)
    ours = draw(policy, batch, GREEDY, reference=reference)
    with policy._adapter(off=reference), torch.no_grad():
        theirs = policy.backbone.generate(
            **batch.model_inputs(),
            do_sample=False,
            max_new_tokens=GREEDY.max_new_tokens,
            suppress_tokens=policy.suppressed_ids.tolist(),
        )
    assert torch.equal(ours.ids, theirs[:, batch.input_ids.shape[1] :])


def ending_greedily(world):
    """A policy, prompts and greedy completions of which some end and others go on."""
    policy = stir(world.policy(), scale=0.3)
    batch = world.batch(policy, 12)
    for logit in torch.arange(0.2, 1.5, 0.02).tolist():
        favour(policy, policy.tokenizer.eos_token_id, logit)
        completions = draw(policy, batch, GREEDY)
        if completions.mask.sum(dim=1).unique().numel() > 1:
            return policy, batch, completions
    raise AssertionError("no logit of the end token lets some rows end and others go on")


def test_greedy_that_ends_is_what_generate_gives(world):
    """Rows that have ended leave the batch, and the others must not notice."""
    policy, batch, ours = ending_greedily(world)
    with torch.no_grad():
        theirs = policy.backbone.generate(
            **batch.model_inputs(),
            do_sample=False,
            max_new_tokens=GREEDY.max_new_tokens,
            suppress_tokens=policy.suppressed_ids.tolist(),
            pad_token_id=policy.tokenizer.pad_token_id,
        )
    assert torch.equal(ours.ids, theirs[:, batch.input_ids.shape[1] :])


def test_sampled_logprobs_are_those_of_scoring(world):
    policy = ending(world)
    batch = world.batch(policy)
    completions = draw(policy, batch, SAMPLED, k=4)
    lengths = completions.mask.sum(dim=1)
    assert lengths.unique().numel() > 3, "rows must end at different times for retiring to be tested"
    expected = rescored(policy, copies(batch, 4), completions, SAMPLED.temperature)
    torch.testing.assert_close(completions.logprobs, expected, atol=1e-4, rtol=0)
    reference = draw(policy, batch, SAMPLED, k=4, reference=True)
    expected = rescored(policy, copies(batch, 4), reference, SAMPLED.temperature, reference=True)
    torch.testing.assert_close(reference.logprobs, expected, atol=1e-4, rtol=0)


def test_the_completions_of_a_prompt_are_adjacent(world):
    policy = ending(world)
    batch = world.batch(policy, 3)
    completions = draw(policy, batch, SAMPLED, k=2)
    assert completions.ids.shape[0] == 6
    adjacent = rescored(policy, batch.rows([0, 0, 1, 1, 2, 2]), completions, SAMPLED.temperature)
    torch.testing.assert_close(adjacent, completions.logprobs, atol=1e-4, rtol=0)
    interleaved = rescored(policy, batch.rows([0, 1, 2, 0, 1, 2]), completions, SAMPLED.temperature)
    assert (interleaved - completions.logprobs).abs().max() > 1e-3


def test_a_row_ends_with_its_end_token(world):
    policy = ending(world)
    eos, pad = policy.tokenizer.eos_token_id, policy.tokenizer.pad_token_id
    completions = draw(policy, world.batch(policy, 12), SAMPLED, k=2)
    ended = 0
    for ids, mask, logprobs in zip(completions.ids, completions.mask, completions.logprobs, strict=True):
        length = int(mask.sum())
        assert mask[:length].all() and not mask[length:].any()
        assert (ids[length:] == pad).all()
        assert (logprobs[length:] == 0).all()
        assert (ids[: length - 1] != eos).all()
        assert (logprobs[:length] < 0).all()
        ended += int(ids[length - 1] == eos)
        assert ids[length - 1] == eos or length == completions.mask.shape[1]
    assert ended > 6


def test_the_result_is_as_wide_as_its_longest_row(world):
    policy = favour(world.policy(), world.policy().tokenizer.eos_token_id, 50.0)
    completions = draw(policy, world.batch(policy, 4), SAMPLED)
    assert completions.ids.shape == (4, 1)
    assert completions.mask.all()


def test_a_greedy_completion_does_not_depend_on_its_neighbours(world):
    policy, batch, together = ending_greedily(world)
    for row in range(len(batch)):
        alone = draw(policy, batch.rows([row]), GREEDY)
        width = int(alone.mask.sum())
        assert int(together.mask[row].sum()) == width
        assert torch.equal(together.ids[row, :width], alone.ids[0, :width])
        torch.testing.assert_close(together.logprobs[row, :width], alone.logprobs[0, :width], atol=1e-5, rtol=0)


@pytest.mark.parametrize("decoding", [SAMPLED, GREEDY])
def test_the_image_token_is_never_sampled(world, decoding):
    """Even when its logit is the highest."""
    policy = world.policy()
    image_token = policy.backbone.config.image_token_id
    favour(policy, image_token, 100.0)
    completions = draw(policy, world.batch(policy), decoding, k=2)
    assert (completions.ids != image_token).all()
    assert torch.isfinite(completions.logprobs).all()
    expected = rescored(policy, copies(world.batch(policy), 2), completions, decoding.temperature or 1.0)
    torch.testing.assert_close(completions.logprobs, expected, atol=1e-4, rtol=0)


def test_temperature_sharpens(world):
    policy = world.policy()
    batch = world.batch(policy)
    cold = draw(policy, batch, Decoding(0.05, 10), k=4)
    hot = draw(policy, batch, Decoding(2.0, 10), k=4)
    assert cold.logprobs.mean() > hot.logprobs.mean() + 1


def test_the_seed_decides(world):
    policy = world.policy()
    batch = world.batch(policy)
    first, again, other = (draw(policy, batch, SAMPLED, k=2, seed=seed).ids for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
