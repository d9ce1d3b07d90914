"""Beam search: transformers' own result, whatever else is in the batch."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.pocket_models import favour, stir
from transformers import DynamicCache

from fisao_pipeline.models.beam_search import search_completions
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.source import ModelSource

SHIPPED = Path(__file__).parents[2] / "data" / "06_models" / "pocket_vlm"


def beams(number: int, tokens: int = 12) -> Decoding:
    return Decoding(temperature=0.0, max_new_tokens=tokens, num_beams=number)


@torch.no_grad()
def generated(policy, batch, decoding, reference=False):
    """Ids of transformers' beam search, and True on the tokens before its padding."""
    with policy._adapter(off=reference):
        ids = policy.backbone.generate(
            **batch.model_inputs(),
            do_sample=False,
            num_beams=decoding.num_beams,
            max_new_tokens=decoding.max_new_tokens,
            suppress_tokens=policy.suppressed_ids.tolist(),
            eos_token_id=policy.eos_ids.tolist(),
            pad_token_id=policy.kind.pad_id,
            renormalize_logits=True,
        )[:, batch.input_ids.shape[1] :]
    ends = torch.isin(ids, policy.eos_ids).long()
    return ids, ends.cumsum(dim=1) - ends == 0


@pytest.fixture(scope="module")
def shipped() -> Policy:
    """The trained pocket model: its captions end, each at another step."""
    return Policy.load(ModelSource(str(SHIPPED), dtype="float32", device="cpu"))


@pytest.mark.parametrize("number", [2, 5])
@pytest.mark.parametrize("tokens", [8, 40])
def test_what_generate_gives(world, shipped, number, tokens):
    batch = world.batch(shipped, 12)
    ours = shipped.sample(batch, beams(number, tokens))
    ids, mask = generated(shipped, batch, beams(number, tokens))
    assert torch.equal(ours.mask, mask)
    assert torch.equal(ours.ids[ours.mask], ids[mask])
    lengths = ours.mask.sum(dim=1).unique()
    assert lengths.tolist() == [8] if tokens == 8 else lengths.numel() > 5, "captions are cut off, or end by themselves"


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("every", [5, 25])
def test_what_generate_gives_with_several_end_tokens_and_an_adapter(world, monkeypatch, every, reference):
    policy = stir(world.policy(), scale=0.3)
    ends = list(range(10, policy.backbone.lm_head.weight.shape[0], every))
    monkeypatch.setattr(policy.backbone.generation_config, "eos_token_id", ends)
    batch = world.batch(policy, 12)
    ours = policy.sample(batch, beams(4), reference=reference)
    ids, mask = generated(policy, batch, beams(4), reference)
    assert torch.equal(ours.mask, mask)
    assert torch.equal(ours.ids[ours.mask], ids[mask])


def test_the_completion_of_a_prompt_does_not_depend_on_its_neighbours(world, shipped):
    batch = world.batch(shipped, 12)
    together = shipped.sample(batch, beams(4, 40))
    for row in range(len(batch)):
        alone = shipped.sample(batch.rows([row]), beams(4, 40))
        width = alone.ids.shape[1]
        assert torch.equal(together.ids[row, :width], alone.ids[0])
        assert int(together.mask[row].sum()) == width
        torch.testing.assert_close(together.logprobs[row, :width], alone.logprobs[0], atol=1e-5, rtol=0)


def test_logprobs_are_those_of_scoring(world, shipped):
    batch = world.batch(shipped, 6)
    found = shipped.sample(batch, beams(3, 40))
    with torch.no_grad():
        expected, _ = shipped.score(batch, found.ids, found.mask, temperature=1.0)
    torch.testing.assert_close(found.logprobs, expected, atol=1e-4, rtol=0)


def test_beams_find_what_greedy_misses(world):
    """Summed over the prompts; a single prompt may fare worse, and its completion has another length."""
    policy = stir(world.policy(), scale=0.3)
    batch = world.batch(policy, 12)
    sums = [
        policy.sample(batch, decoding).logprobs.sum()
        for decoding in (Decoding(temperature=0.0, max_new_tokens=6), beams(2, 6), beams(6, 6))
    ]
    assert sums[0] < sums[1] < sums[2]


def test_the_image_token_is_in_no_beam(world):
    policy = world.policy()
    image_token = policy.backbone.config.image_token_id
    favour(policy, image_token, 100.0)
    found = policy.sample(world.batch(policy), beams(3))
    assert (found.ids != image_token).all()
    assert torch.isfinite(found.logprobs).all()


def test_beams_are_not_drawn(world):
    policy = world.policy()
    with pytest.raises(ValueError, match="beams are not drawn"):
        Decoding(temperature=1.0, max_new_tokens=5, num_beams=2)
    with pytest.raises(ValueError, match="one completion of a prompt, not 2"):
        policy.sample(world.batch(policy), beams(2), completions_per_prompt=2)


class Written:
    """A model of five tokens whose next token hangs on the last one alone, by a table; 0 pads and ends, 4 ends too."""

    pad_id, suppressed_ids, eos_ids = 0, torch.tensor([], dtype=torch.long), torch.tensor([0, 4])
    model = SimpleNamespace(get_decoder=lambda: SimpleNamespace(config=SimpleNamespace(_attn_implementation="none")))

    def __init__(self, first: list[float], then: list[float]):
        self.first, self.then = torch.tensor([first]).log(), torch.tensor([then]).log()

    def next_positions(self, inputs):
        return None

    def prefill(self, inputs):
        return self.first.expand(len(inputs["attention_mask"]), -1), DynamicCache()

    def step(self, tokens, attention_mask, cache, positions):
        assert attention_mask.shape[0] == len(tokens)
        return self.then.expand(len(tokens), -1), cache


def search(first, then, number=2, tokens=3):
    inputs = {"attention_mask": torch.ones(1, 1, dtype=torch.long)}
    found = search_completions(Written(first, then), inputs, beams(number, tokens))
    return found.ids[found.mask].tolist()


FLAT = [0.1, 0.24, 0.22, 0.23, 0.21]


def test_only_as_many_candidates_as_beams_may_end():
    """The end token is the third of the first step: likelier than what the two beams become, and yet no candidate."""
    assert search([0.02, 0.34, 0.33, 0.0, 0.31], FLAT) == [1, 1, 1]
    assert search([0.02, 0.34, 0.31, 0.0, 0.33], FLAT) == [4], "as the second it may"


def test_the_mean_of_the_logprobs_decides():
    """ln 0.5 now against (ln 0.45 + ln 0.9) / 2 later."""
    assert search([0.5, 0.45, 0.03, 0.01, 0.01], [0.9, 0.03, 0.03, 0.02, 0.02]) == [1, 0]
    assert search([0.5, 0.45, 0.03, 0.01, 0.01], [0.5, 0.4, 0.05, 0.03, 0.02]) == [0]
