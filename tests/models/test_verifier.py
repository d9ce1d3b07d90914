"""Cosines of a dual encoder, each text and each picture embedded once."""

import pytest
import torch
from tests.pocket_models import PocketWorld

from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.models.verifier import Verifier

TEXTS = ["a photo of a dog", "cat", "a photo of a traffic light"]


@pytest.fixture
def verifier(world) -> Verifier:
    return world.verifier()


def count_forwards(verifier: Verifier, monkeypatch) -> dict[str, list[int]]:
    """Sizes of the batches that each tower has seen."""
    seen: dict[str, list[int]] = {"texts": [], "images": []}
    texts, images = verifier.model.get_text_features, verifier.model.get_image_features

    def of_texts(**inputs):
        seen["texts"].append(len(inputs["input_ids"]))
        return texts(**inputs)

    def of_images(**inputs):
        seen["images"].append(len(inputs["pixel_values"]))
        return images(**inputs)

    monkeypatch.setattr(verifier.model, "get_text_features", of_texts)
    monkeypatch.setattr(verifier.model, "get_image_features", of_images)
    return seen


@torch.no_grad()
def by_hand(world: PocketWorld, verifier: Verifier, image_id: str, text: str) -> float:
    """The cosine that CLIP's own forward gives for one pair."""
    inputs = verifier.processor(text=[text], images=[world.open_image(image_id)], return_tensors="pt")
    output = verifier.model(**inputs)
    return float((output.image_embeds.double() * output.text_embeds.double()).sum())


def test_scores_are_clips_own_cosines(world, verifier):
    images = ["i00", "i01", "i02"]
    scores = verifier.score(images, TEXTS, world.open_image)
    expected = [by_hand(world, verifier, image, text) for image, text in zip(images, TEXTS, strict=True)]
    torch.testing.assert_close(scores.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0)
    assert len({round(s, 4) for s in expected}) == 3


def test_each_text_and_picture_is_embedded_once(world, verifier, monkeypatch):
    seen = count_forwards(verifier, monkeypatch)
    verifier.score(["i00"] * 3 + ["i01"] * 3, TEXTS * 2, world.open_image)
    verifier.score(["i01", "i00"], ["cat", "a photo of a dog"], world.open_image)
    assert seen == {"texts": [3], "images": [2]}


def test_batches_are_no_larger_than_asked(world, verifier, monkeypatch):
    seen = count_forwards(verifier, monkeypatch)
    verifier.batch_size = 2
    scores = verifier.score(["i00", "i01", "i02"], TEXTS, world.open_image)
    assert seen == {"texts": [2, 1], "images": [2, 1]}
    torch.testing.assert_close(scores, world.verifier().score(["i00", "i01", "i02"], TEXTS, world.open_image))


def test_padding_does_not_change_a_score(world, verifier):
    alone = verifier.score(["i00"], ["cat"], world.open_image)
    together = world.verifier().score(["i00"] * 2, ["a photo of a traffic light and a bench", "cat"], world.open_image)
    torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=0)


def test_order_is_the_callers(world, verifier):
    forward = verifier.score(["i00", "i01", "i02"], TEXTS, world.open_image)
    backward = world.verifier().score(["i02", "i01", "i00"], TEXTS[::-1], world.open_image)
    torch.testing.assert_close(backward.flip(0), forward, atol=1e-5, rtol=0)


def test_texts_beyond_the_context_are_cut_and_counted_once(world, verifier):
    long_text = "a dog next to a cat " * 20
    scores = verifier.score(["i00", "i01", "i00"], [long_text, long_text, "cat"], world.open_image)
    assert verifier.truncated_texts == 1
    assert torch.isfinite(scores).all()
    verifier.score(["i02"], [long_text], world.open_image)
    assert verifier.truncated_texts == 1


def test_no_texts_no_scores(world, verifier):
    assert verifier.score([], [], world.open_image).shape == (0,)


def test_it_never_trains(verifier):
    assert not verifier.model.training
    assert not any(p.requires_grad for p in verifier.model.parameters())


def test_a_model_without_a_text_tower_is_refused_by_name(world):
    source = ModelSource(str(world.models / "pocket_vlm"), dtype="float32", device="cpu")
    with pytest.raises(ValueError, match=r"pocket_vlm.*LlavaModel.*no text tower.*CLIP or SigLIP"):
        Verifier.load(source)
