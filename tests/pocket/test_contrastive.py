"""The verifiers' lesson: pictures against captions, each pair against all others."""

import math

import pytest
import torch
from tests.pocket.conftest import TINY_VERIFIER, untrained_clip
from torch.nn import functional

from fisao_pipeline.models.verifier import Blip2Verifier
from fisao_pipeline.pocket import blip_builders, contrastive
from fisao_pipeline.pocket.language import with_article
from fisao_pipeline.pocket.pixels import scene_pixels
from fisao_pipeline.pocket.scenes import CATEGORIES, draw_scenes, render_scene


@pytest.fixture(scope="module")
def blip2():
    return contrastive.train_blip2(untrained_clip(), TINY_VERIFIER)


@torch.no_grad()
def test_blip2_learns_the_cosines_that_the_verifier_scores_with(blip2):
    """Rows and columns of the matrix of best cosines over queries: each chooses its own pair, at one temperature."""
    model, processor = blip2
    scenes = draw_scenes(5, 3)
    texts = [f"a photo of {with_article(category)}" for category in CATEGORIES[:5]]
    contrast = contrastive.Blip2Contrast()
    contrast.log_scale.fill_(math.log(9.0))
    tokens = processor.tokenizer(texts, padding=True, return_tensors="pt")
    loss = contrast(model, tokens, contrast.see(model, scene_pixels(scenes, processor)))
    pictures = {str(number): render_scene(scene) for number, scene in enumerate(scenes)}
    ids = [name for name in pictures for _ in texts]
    logits = 9.0 * Blip2Verifier(model, processor).score(ids, texts * 5, pictures.__getitem__).view(5, 5)
    assert logits.std() > 1e-4
    rows, columns = (functional.log_softmax(logits, dim=d).diagonal() for d in (1, 0))
    torch.testing.assert_close(loss, -(rows.mean() + columns.mean()) / 2, atol=1e-5, rtol=1e-5)


def test_the_same_seed_trains_the_same_verifier_and_the_temperature_is_forgotten(blip2):
    again, _ = contrastive.train_blip2(untrained_clip(), TINY_VERIFIER)
    other, _ = contrastive.train_blip2(untrained_clip(), TINY_VERIFIER.model_copy(update={"seed": 2}))
    own, same, different = (model.state_dict() for model in (blip2[0], again, other))
    assert all(torch.equal(own[name], same[name]) for name in own)
    assert not torch.equal(own["query_tokens"], different["query_tokens"])
    assert not [name for name in own if "scale" in name or "temp" in name]


def test_only_the_q_former_learns(blip2):
    """BLIP-2's image tower is frozen from the start."""
    untouched = blip_builders.build_blip2(blip2[1], untrained_clip())
    for (name, before), after in zip(untouched.named_parameters(), blip2[0].parameters(), strict=True):
        if name.startswith("vision_model."):
            assert torch.equal(before, after), name
    assert not torch.equal(untouched.text_projection.weight, blip2[0].text_projection.weight)
