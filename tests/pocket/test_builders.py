"""The pocket models before training: small, and a policy sees through its verifier's own eyes."""

import pytest
import torch
from tests.pocket.conftest import Family, untrained_clip

from fisao_pipeline.pocket import blip_builders, builders
from fisao_pipeline.pocket.tokenizers import IMAGE_TOKEN

SENTENCES = ["There is a dog and a cat in a park."] * 8


@pytest.fixture(scope="module")
def blip2():
    torch.manual_seed(0)
    processor = blip_builders.build_blip2_processor(SENTENCES)
    return blip_builders.build_blip2(processor, untrained_clip()), processor


@pytest.fixture(scope="module")
def llava():
    torch.manual_seed(0)
    processor = builders.build_policy_processor(SENTENCES)
    return builders.build_policy(processor, untrained_clip()), processor


@pytest.fixture(scope="module")
def instructblip(blip2, llava):
    processor = blip_builders.build_instructblip_processor(blip2[1], llava[1])
    return blip_builders.build_instructblip(processor, blip2[0], llava[0]), processor


def test_the_models_are_small(blip2, instructblip):
    clip = builders.build_verifier(builders.build_verifier_processor(["a dog", "a cat"]))
    for model, most in ((clip, 1.2e6), (blip2[0], 1.2e6), (instructblip[0], 2e6)):
        assert model.num_parameters() < most


def test_the_policy_sees_through_the_verifiers_own_eyes(family: Family):
    tower = family.policy_tower.state_dict()
    own = family.verifier.vision_model.state_dict()
    assert set(tower) == set(own)
    assert all(torch.equal(tower[name], own[name]) for name in own), "training the captioner must not move them"


def test_an_instructblip_starts_with_the_verifiers_q_former(blip2, instructblip):
    """What its queries find in a picture, without an instruction, is what the BLIP-2's find."""
    verifier, policy = blip2[0].eval(), instructblip[0].eval()
    seen = torch.randn(2, 37, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        queries = verifier.query_tokens.expand(2, -1, -1)
        expected = verifier.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        found = policy.qformer(
            input_ids=None, query_embeds=policy.query_tokens.expand(2, -1, -1), encoder_hidden_states=seen
        ).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (expected[:, 0] - expected[:, 1]).abs().max() > 0.1, "queries that all start alike would stay alike"


def test_the_q_formers_read_the_same_words(blip2, instructblip):
    own, verifiers = instructblip[1].qformer_tokenizer, blip2[1].tokenizer
    assert own.get_vocab() == verifiers.get_vocab()
    assert len(own) == instructblip[0].config.qformer_config.vocab_size
    assert own.tokenize("Is there a dog in the image?")[-2:] == ["image", "?"], "a word of no caption"
    embeddings = instructblip[0].qformer.embeddings.word_embeddings.weight
    assert torch.equal(embeddings, blip2[0].embeddings.word_embeddings.weight)


def test_an_image_is_as_many_tokens_as_there_are_queries(instructblip):
    model, processor = instructblip
    image_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert model.config.image_token_id == image_id
    assert processor.num_query_tokens == model.config.num_query_tokens == model.query_tokens.shape[1]


def test_an_instructblip_starts_with_the_llavas_language(instructblip, llava):
    model, processor = instructblip
    ids = processor.tokenizer("There is a dog in a park.", return_tensors="pt")["input_ids"]
    assert torch.equal(ids, llava[1].tokenizer("There is a dog in a park.", return_tensors="pt")["input_ids"])
    with torch.no_grad():
        assert torch.equal(model.language_model(ids).logits, llava[0](input_ids=ids).logits)
