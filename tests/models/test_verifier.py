"""Cosines of a dual encoder, each text and each picture embedded once."""

import json
from pathlib import Path

import pytest
import torch
from tests.pocket_models import PocketWorld
from tests.verifier_zoo import save_blip2, save_siglip
from transformers import BertTokenizer

from fisao_pipeline.models import verifier as verifier_module
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.models.verifier import Blip2Verifier, DualEncoderVerifier, load_verifier
from fisao_pipeline.pocket.scenes import CATEGORIES

SHIPPED = Path(__file__).parents[2] / "data" / "06_models"
TEXTS = ["a photo of a dog", "cat", "a photo of a traffic light"]


@pytest.fixture
def verifier(world) -> DualEncoderVerifier:
    return world.verifier()


def count_forwards(verifier: DualEncoderVerifier, monkeypatch) -> dict[str, list[int]]:
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
def by_hand(world: PocketWorld, verifier: DualEncoderVerifier, image_id: str, text: str) -> float:
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


def test_a_verifier_that_is_given_its_embeddings_back_scores_on_in_the_same_bits(world, verifier, monkeypatch):
    """In another process, where fewer texts would share a batch and its padding."""
    long = "a dog next to a cat " * 20
    verifier.score(["i00", "i01"], ["cat", long], world.open_image)
    assert verifier.truncated_texts == 1
    kept = (
        {name: tensor.clone() for name, tensor in verifier.tensors().items()},
        json.loads(json.dumps(verifier.values())),
    )
    pairs = ["i00", "i01", "i02", "i02"], ["a dog", "cat", "cat", long]
    expected = verifier.score(*pairs, world.open_image)
    other = world.verifier()
    other.restore(*kept)
    seen = count_forwards(other, monkeypatch)
    assert torch.equal(other.score(*pairs, world.open_image), expected)
    assert seen["images"] == [1], "a text rounds alike whenever it is embedded, a picture not in another batch"
    assert other.tensors()["images"].equal(verifier.tensors()["images"]) and other.values() == verifier.values()


def test_each_text_and_picture_is_embedded_once(world, verifier, monkeypatch):
    seen = count_forwards(verifier, monkeypatch)
    verifier.score(["i00"] * 3 + ["i01"] * 3, TEXTS * 2, world.open_image)
    verifier.score(["i01", "i00"], ["cat", "a photo of a dog"], world.open_image)
    assert seen == {"texts": [1] * 3, "images": [2]}


def test_batches_are_no_larger_than_asked(world, verifier, monkeypatch):
    seen = count_forwards(verifier, monkeypatch)
    verifier.batch_size = 2
    scores = verifier.score(["i00", "i01", "i02"], TEXTS, world.open_image)
    assert seen == {"texts": [1] * 3, "images": [2, 1]}
    torch.testing.assert_close(scores, world.verifier().score(["i00", "i01", "i02"], TEXTS, world.open_image))


def test_a_text_has_the_same_bits_whatever_it_is_embedded_with(world, verifier):
    alone = verifier.score(["i00"], ["cat"], world.open_image)
    together = world.verifier().score(["i00"] * 2, ["a photo of a traffic light and a bench", "cat"], world.open_image)
    assert torch.equal(alone[0], together[1])


def test_whole_responses_go_through_the_tower_in_batches_and_are_not_kept(world, verifier, monkeypatch):
    long = "a dog next to a cat " * 20
    texts = [*TEXTS, long, TEXTS[0]]
    images = ["i00", "i01", "i02", "i00", "i01"]
    expected = verifier.score(images, texts, world.open_image)
    other = world.verifier()
    other.batch_size = 3
    seen = count_forwards(other, monkeypatch)
    scores = other.score(images, texts, world.open_image, whole_responses=True)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)
    assert seen["texts"] == [3, 1] and not other._texts and other.truncated_texts == 1


def test_what_was_scored_before_changes_no_bit_of_a_response(world, verifier):
    alone = verifier.score(["i00"] * 3, TEXTS, world.open_image, whole_responses=True)
    other = world.verifier()
    other.score(["i00"], ["a photo of a traffic light and a bench"], world.open_image, whole_responses=True)
    other.score(["i00"], [TEXTS[0]], world.open_image)
    assert torch.equal(other.score(["i00"] * 3, TEXTS, world.open_image, whole_responses=True), alone)


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
        load_verifier(source)


# --- bfloat16 ------------------------------------------------------------------------------------------------------


def shipped(dtype: str) -> DualEncoderVerifier:
    return load_verifier(ModelSource(str(SHIPPED / "pocket_verifier"), dtype=dtype, device="cpu"))


@torch.no_grad()
def test_bfloat16_embeddings_are_normalised_in_float32(world):
    """The towers compute in bfloat16, the cosine of what they give does not."""
    verifier = shipped("bfloat16")
    images = world.prompts["image_id"].tolist()[:12]
    texts = ["a photo of a dog", "a photo of a car"] * 6
    found = verifier.score(images, texts, world.open_image)
    assert found.dtype == torch.float32
    pixels = verifier.processor(images=[world.open_image(i) for i in images], return_tensors="pt")["pixel_values"]
    seen = verifier.model.get_image_features(pixel_values=pixels.bfloat16()).pooler_output
    two = verifier.processor.tokenizer(texts[:2], padding=True, return_tensors="pt")
    said = verifier.model.get_text_features(**two).pooler_output
    assert seen.dtype == said.dtype == torch.bfloat16
    v, w = seen.float(), said.float().repeat(6, 1)
    wanted = torch.nn.functional.normalize(v, dim=-1).mul(torch.nn.functional.normalize(w, dim=-1)).sum(-1)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    coarse = torch.nn.functional.cosine_similarity(seen, said.repeat(6, 1)).float()
    assert (coarse - wanted).abs().max() > 1e-4, "or the test could not tell where it is normalised"


def test_the_shipped_verifier_tells_as_much_in_bfloat16(world):
    """Which objects are in the picture, for all pictures and categories: AUROC and order."""
    from fisao_pipeline.method.calibration import auroc

    there = dict(zip(world.manifest["image_id"], world.manifest["objects"], strict=True))
    pairs = [(image, name) for image in there for name in CATEGORIES]
    present = torch.tensor([name in there[image] for image, name in pairs])
    images, texts = [image for image, _ in pairs], [f"a photo of a {name}" for _, name in pairs]
    fine, coarse = (shipped(dtype).score(images, texts, world.open_image) for dtype in ("float32", "bfloat16"))
    of_fine, of_coarse = (auroc(scores[present], scores[~present]) for scores in (fine, coarse))
    assert of_fine > 0.9
    assert abs(of_fine - of_coarse) < 0.005
    ranks = torch.stack([scores.argsort().argsort().double() for scores in (fine, coarse)])
    assert torch.corrcoef(ranks)[0, 1] > 0.999
    assert not torch.equal(fine, coarse)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_it_runs_in_is_logged(caplog, dtype):
    with caplog.at_level("INFO", logger="fisao_pipeline"):
        shipped(dtype)
    assert f"pocket_verifier: CLIPModel in {dtype} on cpu, attention sdpa." in caplog.text


# --- SigLIP --------------------------------------------------------------------------------------------------------


def load_siglip(folder) -> DualEncoderVerifier:
    """Its tokenizer keeps capitals."""
    source = ModelSource(str(save_siglip(folder, ["a photo of a dog", "a cat"])), dtype="float32", device="cpu")
    verifier = load_verifier(source)
    verifier.processor.tokenizer.backend_tokenizer.normalizer = None
    return verifier


@torch.no_grad()
def test_siglip_scores_lower_cased_texts_padded_to_the_whole_context(world, tmp_path):
    verifier = load_siglip(tmp_path)
    assert isinstance(verifier, DualEncoderVerifier)
    images, texts = ["i00", "i01"], ["a photo of a DOG", "Cat"]
    scores = verifier.score(images, texts, world.open_image)
    ids = verifier.processor.tokenizer(
        [text.lower() for text in texts], padding="max_length", max_length=24, return_tensors="pt"
    )["input_ids"]
    assert ids.shape == (2, 24)
    assert verifier.processor.tokenizer("DOG")["input_ids"] != verifier.processor.tokenizer("dog")["input_ids"]
    pixels = verifier.processor.image_processor([world.open_image(i) for i in images], return_tensors="pt")
    own = verifier.model(input_ids=ids, pixel_values=pixels["pixel_values"])
    torch.testing.assert_close(scores, (own.image_embeds * own.text_embeds).sum(-1), atol=1e-6, rtol=1e-5)
    alone = load_siglip(tmp_path).score(["i01"], ["Cat"], world.open_image)
    torch.testing.assert_close(alone, scores[1:], atol=1e-6, rtol=1e-5)


def test_siglip_counts_texts_beyond_its_context(world, tmp_path):
    verifier = load_siglip(tmp_path)
    verifier.score(["i00", "i00"], ["a dog " * 20, "a dog"], world.open_image)
    assert verifier.truncated_texts == 1


# --- BLIP-2 --------------------------------------------------------------------------------------------------------


def blip2(folder) -> ModelSource:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "dog", "cat", "traffic", "light", "the"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    return ModelSource(str(save_blip2(folder, tokenizer)), dtype="float32", device="cpu")


@torch.no_grad()
def test_blip2_scores_are_the_models_own_contrastive_output(world, tmp_path):
    verifier = load_verifier(blip2(tmp_path))
    assert isinstance(verifier, Blip2Verifier)
    images, texts = ["i00", "i01", "i02"], ["a photo of a dog", "cat", "the traffic light"]
    pairs = [(image, text) for image in images for text in texts]
    scores = verifier.score([i for i, _ in pairs], [t for _, t in pairs], world.open_image)
    tokenizer = verifier.processor.tokenizer
    own = []
    for image, text in pairs:
        pixels = verifier.processor.image_processor([world.open_image(image)], return_tensors="pt")["pixel_values"]
        encoded = tokenizer([text], return_tensors="pt")
        output = verifier.model(
            pixel_values=pixels,
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            use_image_text_matching_head=False,
        )
        own.append(float(output.logits_per_image))
    torch.testing.assert_close(scores, torch.tensor(own), atol=1e-5, rtol=1e-4)
    assert len({round(s, 4) for s in own}) == len(pairs), "a test in which all pairs score alike tells nothing"


def test_blip2_embeds_each_picture_and_text_once_and_counts_cuts(world, tmp_path, monkeypatch):
    verifier = load_verifier(blip2(tmp_path))
    seen = {"_image_embeddings": [], "_text_embeddings": []}
    for name, sizes in seen.items():
        real = getattr(verifier, name)
        monkeypatch.setattr(
            verifier,
            name,
            lambda given, real=real, sizes=sizes: (sizes.append(len(next(iter(given.values())))), real(given))[1],
        )
    verifier.score(["i00", "i00", "i01"], ["cat", "a dog", "cat"], world.open_image)
    verifier.score(["i01"], ["a photo of the dog " * 4], world.open_image)
    assert seen == {"_image_embeddings": [2], "_text_embeddings": [1, 1, 1]}
    assert verifier.truncated_texts == 1


def test_a_blip2_without_projections_is_refused(tmp_path):
    config = blip2(tmp_path).path_or_id
    path = Path(config) / "config.json"
    path.write_text(path.read_text().replace("Blip2ForImageTextRetrieval", "Blip2ForConditionalGeneration"))
    with pytest.raises(ValueError, match=r"Blip2ForConditionalGeneration.*without projections.*CLIP or SigLIP"):
        load_verifier(ModelSource(str(tmp_path), dtype="float32", device="cpu"))


# --- the factory ---------------------------------------------------------------------------------------------------


def test_what_is_no_verifier_is_refused_before_its_weights_are_read(world, tmp_path):
    (tmp_path / "config.json").write_text((world.models / "pocket_vlm" / "config.json").read_text())
    with pytest.raises(ValueError, match=r"LlavaModel.*Blip2ForImageTextRetrieval"):
        load_verifier(ModelSource(str(tmp_path)))


def test_pairs_are_scored_in_parts(world, verifier, monkeypatch):
    whole = verifier.score(["i00", "i01", "i02"], TEXTS, world.open_image)
    monkeypatch.setattr(verifier_module, "_PAIRS_AT_ONCE", 2)
    assert torch.equal(verifier.score(["i00", "i01", "i02"], TEXTS, world.open_image), whole)
