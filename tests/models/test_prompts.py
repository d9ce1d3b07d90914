"""Prompts in the chat format, padded on the left, each picture seen by the vision tower once."""

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from fisao_pipeline.models.prompts import FeatureCache, PromptEncoder

PROMPTS = ["Describe this image.", "What do you see?", "What is in the picture?"]
IMAGES = ["i00", "i01", "i02"]


@pytest.fixture(scope="module")
def policy(world):
    return world.policy(lora=None)


@pytest.fixture
def encoder(policy) -> PromptEncoder:
    return PromptEncoder(policy.backbone, policy.processor)


class Opener:
    """Counts how often each picture is opened."""

    def __init__(self, world):
        self.world, self.opened = world, []

    def __call__(self, image_id):
        self.opened.append(image_id)
        return self.world.open_image(image_id)


def test_the_text_is_the_backbones_chat_format(encoder):
    assert encoder.chat_text("What?") == "USER: <image>\nWhat? ASSISTANT:"


def test_what_is_encoded_is_what_the_processor_makes(world, encoder, policy):
    batch = encoder(PROMPTS, IMAGES, world.open_image)
    for row, (prompt, image) in enumerate(zip(PROMPTS, IMAGES, strict=True)):
        alone = policy.processor(text=encoder.chat_text(prompt), images=world.open_image(image), return_tensors="pt")[
            "input_ids"
        ][0]
        assert torch.equal(batch.input_ids[row][batch.attention_mask[row]], alone)
    assert batch.attention_mask[:, -1].all(), "padding is on the left"
    assert not batch.attention_mask[:, 0].all()
    padding = ~batch.attention_mask
    assert (batch.input_ids[padding] == policy.tokenizer.pad_token_id).all()


def test_cached_features_give_the_logits_of_the_pixels(world, encoder, policy):
    batch = encoder(PROMPTS, IMAGES, world.open_image)
    images = [world.open_image(i) for i in IMAGES]
    pixels = policy.processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        cached = policy.backbone(**batch.model_inputs()).logits
        direct = policy.backbone(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), pixel_values=pixels
        ).logits
    torch.testing.assert_close(cached, direct, atol=1e-5, rtol=1e-5)


def test_a_picture_is_opened_and_encoded_once(world, encoder, policy, monkeypatch):
    seen = []
    real = policy.backbone.get_image_features
    monkeypatch.setattr(
        policy.backbone,
        "get_image_features",
        lambda pixel_values, **options: seen.append(len(pixel_values)) or real(pixel_values=pixel_values, **options),
    )
    opener = Opener(world)
    encoder(["Describe this image."] * 4 + ["What do you see?"], ["i00", "i01", "i00", "i01", "i00"], opener)
    encoder(["Describe this image."] * 2, ["i01", "i00"], opener)
    assert sorted(opener.opened) == ["i00", "i01"]
    assert seen == [2]


def test_every_row_gets_the_features_of_its_own_picture(world, encoder):
    first = encoder(["Describe this image."] * 2, ["i00", "i01"], world.open_image)
    fresh = encoder(PROMPTS, ["i02", "i01", "i00"], world.open_image)
    swapped = encoder(["Describe this image."] * 2, ["i01", "i00"], world.open_image)
    torch.testing.assert_close(fresh.image_features[2], first.image_features[0])
    torch.testing.assert_close(swapped.image_features[0], first.image_features[1])
    assert (first.image_features[0] - first.image_features[1]).abs().max() > 1e-3


def test_a_cache_that_holds_one_picture_is_enough_for_a_batch_of_three(world, policy):
    """The batch's own pictures push each other out while it is built."""
    roomy = PromptEncoder(policy.backbone, policy.processor)
    tiny = PromptEncoder(policy.backbone, policy.processor, cache_bytes=1)
    expected = roomy(PROMPTS, IMAGES, world.open_image)
    for _ in range(2):
        batch = tiny(PROMPTS, IMAGES, world.open_image)
        assert torch.equal(batch.input_ids, expected.input_ids)
        for got, wanted in zip(batch.image_features, expected.image_features, strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_a_prompt_longer_than_the_context_is_refused(world, encoder):
    long_prompt = "umbrella " * 200
    with pytest.raises(
        ValueError,
        match=r"takes \d+ tokens and the policy's context is 192: re-run response_sampling.*umbrella umbrella",
    ):
        encoder([long_prompt], ["i00"], world.open_image)


def test_tokens_are_counted_as_they_are_encoded_without_opening_a_picture(world, encoder):
    prompts = [*PROMPTS, "umbrella " * 15, "Ein Café – naïve?", PROMPTS[0]]
    images = [*IMAGES, "i03", "i04", "i05"]
    counted = encoder.count_tokens(prompts, [world.images[i].size for i in images])
    batch = encoder(prompts, images, world.open_image)
    assert counted == batch.attention_mask.sum(dim=1).tolist()


def test_a_prompt_far_beyond_the_context_is_counted_too(world, encoder):
    short, long = (encoder.count_tokens(["umbrella " * n], [(96, 96)])[0] for n in (10, 1010))
    assert long - short >= 1000


class CountingProcessor:
    """Counts how often it is called for a picture."""

    def __init__(self, processor):
        self.processor, self.calls = processor, 0

    def __call__(self, **inputs):
        self.calls += 1
        return self.processor(**inputs)

    def __getattr__(self, name):
        return getattr(self.processor, name)


def test_the_processor_runs_once_for_each_size_however_many_prompts_there_are(policy):
    processor = CountingProcessor(policy.processor)
    encoder = PromptEncoder(policy.backbone, processor)
    prompts = [f"What is in picture {n}?" for n in range(3000)]
    first = encoder.count_tokens(prompts, [(96, 96), (640, 480), (96, 96)] * 1000)
    assert processor.calls == 2
    assert encoder.count_tokens(prompts, [(96, 96)] * 3000) == first, "this processor makes all pictures alike"
    assert processor.calls == 2


def test_a_processor_that_spends_more_tokens_on_larger_pictures(policy):
    """Without resizing, a picture twice as wide has twice as many patches."""
    processor = AutoProcessor.from_pretrained(policy.backbone.name_or_path)
    processor.image_processor.do_resize = processor.image_processor.do_center_crop = False
    encoder = PromptEncoder(policy.backbone, processor)
    sizes = [(96, 96), (192, 96), (96, 288)]
    one, two, three = encoder.count_tokens(["Describe."] * 3, sizes)
    for size, count in zip(sizes, (one, two, three), strict=True):
        real = processor(text=[encoder.chat_text("Describe.")], images=[Image.new("RGB", size, "red")])
        assert count == len(real["input_ids"][0])
    assert one < two < three


def test_rows_drop_columns_that_are_padding_in_all_of_them(world, encoder):
    batch = encoder(PROMPTS, IMAGES, world.open_image)
    lengths = batch.attention_mask.sum(dim=1)
    short = int(lengths.argmin())
    part = batch.rows([short, short])
    assert part.input_ids.shape == (2, int(lengths.min()))
    assert part.attention_mask.all()
    assert part.image_features[0] is batch.image_features[short]
    again = batch.rows([2, 0])
    assert torch.equal(again.input_ids[1][again.attention_mask[1]], batch.input_ids[0][batch.attention_mask[0]])


def test_the_least_recently_used_features_go_first():
    cache = FeatureCache(max_bytes=3 * 40)
    tensors = {name: torch.full((10,), float(n)) for n, name in enumerate("abcd")}
    for name in "abc":
        cache.put(name, tensors[name])
    assert cache.get("a") is tensors["a"]
    cache.put("d", tensors["d"])
    assert cache.get("b") is None
    assert all(cache.get(name) is tensors[name] for name in "acd")
    cache.put("d", tensors["d"])
    assert all(cache.get(name) is not None for name in "acd"), "putting again what is there must not count twice"


def test_what_is_larger_than_the_cache_is_kept_alone():
    cache = FeatureCache(max_bytes=8)
    cache.put("a", torch.zeros(100))
    cache.put("b", torch.zeros(100))
    assert cache.get("a") is None
    assert cache.get("b") is not None
