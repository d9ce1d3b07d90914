"""Every supported kind of model against transformers' own forward pass and `generate` on pixels."""

import re

import pytest
import torch
from tests.backbone_zoo import ZOO, Picture, build
from tests.on_pixels import direct_logprobs, pixels
from tests.pocket_models import LORA, stir
from torch import nn

from fisao_pipeline.datasets.adapter_folder import AdapterArtifact, AdapterFolderDataset
from fisao_pipeline.models.backbones.choice import KINDS
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.lora import language_tower_name
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import PromptEncoder
from fisao_pipeline.models.source import ModelSource

PROMPTS = ["Describe this image.", "What?", "Is there a dog in the picture, or is there none?", "What do you see?"]
IMAGES = ["square", "wide", "tall", "large"]
TEMPERATURE = 0.8
PACKING = {"llava", "instructblip", "llava_next", "llava_onevision", "idefics3", "smolvlm", "internvl"}
open_image = Picture()


@pytest.fixture(scope="module", params=ZOO)
def policy(request, tmp_path_factory) -> Policy:
    """With an adapter that does something."""
    folder = build(request.param, tmp_path_factory.mktemp(request.param))
    torch.manual_seed(0)
    return stir(Policy.load(ModelSource(str(folder), dtype="float32", device="cpu"), lora=LORA))


@pytest.fixture
def batch(policy):
    return policy.encode(PROMPTS, IMAGES, open_image)


def on_pixels(policy: Policy) -> dict[str, torch.Tensor]:
    """What the processor makes of the prompts, padded on the left."""
    texts = [policy.encode.chat_text(prompt) for prompt in PROMPTS]
    return pixels(policy.processor, policy.backbone.config.model_type, texts, [open_image(i) for i in IMAGES])


def completions(policy: Policy, width: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Random completions of different lengths, with anything behind their ends."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 300, (len(PROMPTS), width), generator=generator)
    mask = torch.arange(width) < torch.tensor([[width], [4], [1], [7]])
    return torch.where(mask, ids, policy.kind.image_token_id), mask


@torch.no_grad()
def scores(policy: Policy, batch, ids, mask, temperature=TEMPERATURE, **options) -> torch.Tensor:
    return policy.score(batch, ids, mask, temperature, **options)[0]


def test_every_supported_kind_is_here():
    assert set(ZOO) == set(KINDS)


def test_prompts_are_those_of_the_processor(policy, batch):
    assert not batch.attention_mask.all(), "prompts must differ in length"
    encoded = on_pixels(policy)
    for row, (ids, mask) in enumerate(zip(encoded["input_ids"], encoded["attention_mask"].bool(), strict=True)):
        assert torch.equal(batch.input_ids[row][batch.attention_mask[row]], ids[mask])


def test_a_picture_goes_through_the_tower_once_and_an_instruction_with_it_where_it_is_read(policy, monkeypatch):
    seen = []
    real = policy.backbone.get_image_features
    monkeypatch.setattr(
        policy.backbone, "get_image_features", lambda **given: seen.append(len(given["pixel_values"])) or real(**given)
    )
    encode = PromptEncoder(policy.backbone, policy.processor)
    encode(PROMPTS[:3], ["square", "wide", "square"], open_image)
    encode(PROMPTS[:3], ["square", "wide", "square"], open_image)
    if policy.kind.reads_prompt:
        assert len(seen) == 3
    else:
        assert len(seen) == (1 if policy.kind.batches_images else 2)
        encode(PROMPTS[3:], ["wide"], open_image)
        assert len(seen) == 2


def test_tokens_are_counted_without_opening_a_picture(policy, batch):
    counted = policy.encode.count_tokens(PROMPTS, [open_image.sizes[i] for i in IMAGES])
    assert counted == batch.attention_mask.sum(dim=1).tolist()


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("reference", [False, True])
def test_scores_are_those_of_the_class_on_pixels(policy, batch, reference, padding):
    """Ours have prompts padded on the left and completions on the right; pictures are of different sizes."""
    ids, mask = completions(policy)
    inputs = on_pixels(policy)
    assert not inputs["attention_mask"].all() and not mask.all()
    got = scores(policy, batch, ids, mask, reference=reference)
    with policy._adapter(off=reference):
        given = [row[counts] for row, counts in zip(ids, mask, strict=True)]
        expected = direct_logprobs(policy.backbone, inputs, given, TEMPERATURE, policy.suppressed_ids, padding)
    torch.testing.assert_close(got[mask].double(), torch.cat(expected), atol=1e-5, rtol=1e-5)
    assert (got[~mask] == 0).all()


def test_the_tokenizers_own_padding_side_does_not_matter(policy, batch, monkeypatch):
    ids, mask = completions(policy)
    expected = scores(policy, batch, ids, mask)
    monkeypatch.setattr(policy.tokenizer, "padding_side", "right")
    encode = PromptEncoder(policy.backbone, policy.processor)
    assert torch.equal(scores(policy, encode(PROMPTS, IMAGES, open_image), ids, mask), expected)


def test_padding_and_neighbours_change_no_score(policy, batch):
    ids, mask = completions(policy)
    whole = scores(policy, batch, ids, mask)
    for row in range(len(batch)):
        length = int(mask[row].sum())
        alone = scores(policy, batch.rows([row]), ids[[row], :length], mask[[row], :length])
        torch.testing.assert_close(alone[0], whole[row, :length], atol=1e-5, rtol=1e-5)


def test_a_score_depends_on_the_picture(policy, batch):
    ids, mask = completions(policy)
    other = policy.encode(PROMPTS, IMAGES[::-1], open_image)
    assert (scores(policy, other, ids, mask) - scores(policy, batch, ids, mask))[mask].abs().max() > 1e-4


def test_completions_that_share_their_prompt_score_as_if_they_did_not(policy, batch):
    assert policy.shares_prompts == (policy.backbone.config.model_type in PACKING)
    ids, mask = completions(policy)
    owners = [1, 0, 1, 3]
    shared = scores(policy, batch, ids, mask, prompt_of_row=owners)
    torch.testing.assert_close(shared, scores(policy, batch.rows(owners), ids, mask), atol=1e-5, rtol=1e-5)


def test_greedy_is_what_generate_gives(policy, batch):
    ours = policy.sample(batch, Decoding(temperature=0.0, max_new_tokens=10))
    with torch.no_grad():
        theirs = policy.backbone.generate(
            **on_pixels(policy),
            do_sample=False,
            max_new_tokens=10,
            suppress_tokens=policy.suppressed_ids.tolist(),
            eos_token_id=policy.eos_ids.tolist(),
            pad_token_id=policy.kind.pad_id,
        )
    assert torch.equal(ours.ids, theirs[:, batch.input_ids.shape[1] :])


def test_beam_search_is_what_generate_gives(policy, batch):
    ours = policy.sample(batch, Decoding(temperature=0.0, max_new_tokens=8, num_beams=3))
    with torch.no_grad():
        theirs = policy.backbone.generate(
            **on_pixels(policy),
            do_sample=False,
            num_beams=3,
            max_new_tokens=8,
            suppress_tokens=policy.suppressed_ids.tolist(),
            eos_token_id=policy.eos_ids.tolist(),
            pad_token_id=policy.kind.pad_id,
            renormalize_logits=True,
        )[:, -ours.ids.shape[1] :]
    assert torch.equal(ours.ids[ours.mask], theirs[ours.mask])


def test_sampled_logprobs_are_those_of_scoring_with_several_end_tokens(policy, batch, monkeypatch):
    """Two completions of each prompt, rows that end at different steps, the model used for another batch before."""
    ends = list(range(10, 300, 9))
    monkeypatch.setattr(policy.backbone.generation_config, "eos_token_id", ends)
    policy.sample(policy.encode(PROMPTS[:1], ["large"], open_image), Decoding(1.0, 3))
    torch.manual_seed(0)
    drawn = policy.sample(batch, Decoding(TEMPERATURE, 30), completions_per_prompt=2)
    lengths = drawn.mask.sum(dim=1)
    assert lengths.unique().numel() > 2, "rows must end at different steps"
    for ids, length in zip(drawn.ids, lengths.tolist(), strict=True):
        assert not set(ids[: length - 1].tolist()) & {*ends, policy.tokenizer.eos_token_id}
    owners = [row for row in range(len(batch)) for _ in range(2)]
    expected = scores(policy, batch.rows(owners), drawn.ids, drawn.mask)
    torch.testing.assert_close(drawn.logprobs, expected, atol=1e-4, rtol=0)
    packed = scores(policy, batch, drawn.ids, drawn.mask, prompt_of_row=owners)
    torch.testing.assert_close(drawn.logprobs, packed, atol=1e-4, rtol=0)


def test_a_token_that_stands_for_an_image_is_never_sampled(policy, batch):
    head = policy.backbone.get_output_embeddings()
    biased = nn.Linear(head.in_features, head.out_features)
    biased.weight.data.copy_(head.weight)
    biased.bias.data.zero_()
    biased.bias.data[policy.suppressed_ids] = 100.0
    policy.backbone.set_output_embeddings(biased.requires_grad_(False))
    try:
        assert policy.kind.image_token_id in policy.suppressed_ids.tolist()
        drawn = policy.sample(batch, Decoding(1.0, 5))
        assert not torch.isin(drawn.ids, policy.suppressed_ids).any()
        rescored = scores(policy, batch, drawn.ids, drawn.mask, temperature=1.0)
        torch.testing.assert_close(drawn.logprobs, rescored, atol=1e-4, rtol=0)
    finally:
        policy.backbone.set_output_embeddings(head)


def test_the_adapter_reaches_the_language_tower_only(policy):
    tower = language_tower_name(policy.backbone)
    names = [name for name, _ in policy.backbone.named_modules() if name.endswith(".lora_A")]
    linear = (name for name, _ in policy.backbone.get_submodule(tower).named_modules() if name.endswith("lora_A"))
    assert len(names) == len(list(linear)) == 2 * len(LORA.targets)
    assert not any(re.search("vision|visual|qformer|project|connector", name) for name in names)
    assert {name for name, p in policy.model.named_parameters() if p.requires_grad} == {
        name for name, _ in policy.model.named_parameters() if ".lora_" in name
    }


def test_a_saved_adapter_scores_the_same(policy, batch, tmp_path):
    config, state = policy.adapter_state()
    dataset = AdapterFolderDataset(filepath=str(tmp_path / "adapter"))
    dataset.save(AdapterArtifact(config, state, base_model=policy.identity))
    source = ModelSource(policy.backbone.name_or_path, dtype="float32", device="cpu")
    loaded = Policy.load(source, adapter=dataset.load())
    ids, mask = completions(policy)
    again = loaded.encode(PROMPTS, IMAGES, open_image)
    torch.testing.assert_close(scores(loaded, again, ids, mask), scores(policy, batch, ids, mask), atol=1e-6, rtol=0)


def test_gradients_reach_the_adapter(policy, batch):
    ids, mask = completions(policy)
    policy.score(batch, ids, mask, TEMPERATURE, prompt_of_row=range(4))[0].sum().backward()
    gradients = [p.grad for p in policy.trainable_parameters()]
    policy.model.zero_grad()
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert any((g != 0).any() for g in gradients)


def test_a_picture_a_hundred_times_as_long_as_high_is_read(policy, monkeypatch):
    monkeypatch.setattr(Picture, "sizes", {"strip": (400, 4), "pillar": (4, 400), "ribbon": (2010, 10)})
    batch = policy.encode(PROMPTS[:2], ["strip", "pillar"], open_image)
    ids, mask = completions(policy)
    assert torch.isfinite(scores(policy, batch, ids[:2], mask[:2])).all()
    assert policy.encode.count_tokens(PROMPTS[:1], [(400, 4)]) == batch.attention_mask.sum(dim=1).tolist()[:1]
    with pytest.raises(ValueError, match=r"'ribbon' is 2010 x 10 pixels: .* 200 times"):
        policy.encode(PROMPTS[:1], ["ribbon"], open_image)
    with pytest.raises(ValueError, match=r"10 x 2010 pixels"):
        policy.encode.count_tokens(PROMPTS[:1], [(10, 2010)])
