"""The captioners' lesson: what is computed at once costs what single forward passes do, and it is learnt."""

import copy
import math
import random
from dataclasses import replace

import pytest
import torch
from tests.pocket.conftest import Family, train_family, untrained_clip
from transformers import PreTrainedModel

from fisao_pipeline.method.calibration import auroc
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.verifier import Blip2Verifier, DualEncoderVerifier
from fisao_pipeline.params.pocket import PocketVerifierParams, PocketVLMParams
from fisao_pipeline.pocket import blip_builders, builders, language
from fisao_pipeline.pocket.examples import Example
from fisao_pipeline.pocket.pixels import scene_pixels
from fisao_pipeline.pocket.scenes import CATEGORIES, draw_scenes, render_scene


def test_what_is_computed_at_once_costs_what_single_examples_do(family: Family):
    """Captions and answers about several pictures: the mean loss of every example in a forward pass of its own."""
    family = replace(family, policy=outspoken(family.policy))
    rng = random.Random(5)
    scenes = draw_scenes(3, 4)
    examples = [
        [Example("Describe this image.", language.describe(rng, scene, 0.5), is_question=False)] * 2
        + [Example("What do you see?", language.describe(rng, scene, 0.5), is_question=False)]
        + [Example(*language.ask(rng, scene), is_question=True)]
        for scene in scenes
    ]
    pixels = scene_pixels(scenes, family.processor)
    lesson = family.lesson(family.policy, family.processor, pixels)
    with torch.no_grad():
        caption, question = lesson([2, 0, 1], [examples[2], examples[0], examples[1]])
    losses = {False: [], True: []}
    for row, own in enumerate(examples):
        for example in own:
            losses[example.is_question].append(single_loss(family, lesson, pixels[[row]], example))
    torch.testing.assert_close(caption, torch.cat(losses[False]).mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(question, torch.cat(losses[True]).mean(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def outspoken(model: PreTrainedModel) -> PreTrainedModel:
    """With weights so large that whatever is read, padding too, shows in the loss."""
    louder = copy.deepcopy(model)
    for parameter in louder.parameters():
        if parameter.ndim > 1:
            parameter.mul_(4.0)
    return louder


@torch.no_grad()
def single_loss(family: Family, lesson, pixels: torch.Tensor, example: Example) -> torch.Tensor:
    """Of one example's answer, by the model's own forward pass on pixels."""
    head, answer = lesson.encode.head_ids(example.prompt), lesson.encode.answer_ids(example.answer)
    more = {}
    if family.name == "instructblip":
        read = family.processor.qformer_tokenizer(example.prompt, return_tensors="pt")
        more = {f"qformer_{name}": read[name] for name in ("input_ids", "attention_mask")}
    logits = family.policy(input_ids=torch.tensor([head + answer]), pixel_values=pixels, **more).logits[0]
    return torch.nn.functional.cross_entropy(logits[len(head) - 1 : -1], torch.tensor(answer), reduction="none")


def test_without_questions_their_loss_is_zero(family: Family):
    scenes = draw_scenes(1, 4)
    lesson = family.lesson(family.policy, family.processor, scene_pixels(scenes, family.processor))
    caption, question = lesson([0], [[Example("Describe this image.", "A dog.", is_question=False)]])
    assert caption > 0 and question == 0


def presence_auroc(verifier: DualEncoderVerifier | Blip2Verifier, scenes) -> float:
    """How well the cosine tells what is in a picture from what is not, over all categories."""
    pictures = {f"s{n}": render_scene(scene) for n, scene in enumerate(scenes)}
    texts = [f"a photo of a {category}" for category in CATEGORIES]
    ids = [i for i in pictures for _ in texts]
    scores = verifier.score(ids, texts * len(pictures), pictures.__getitem__)
    present = torch.tensor([category in scene.counts for scene in scenes for category in CATEGORIES])
    return auroc(scores[present], scores[~present])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["llava", "instructblip"])
def test_the_recipe_learns(name):
    """At a fraction of its size: the verifier sees, and the captioner's answers come to have the form of captions."""
    seeing = PocketVerifierParams(scenes=1500, steps=250, batch_size=96, learning_rate=1.5e-3, seed=7)
    settings = PocketVLMParams(
        scenes=1500,
        phases=({"steps": 120, "learning_rate": 1.5e-3, "invent_share": 0.4},),
        batch_size=16,
        captions_per_image=2,
        questions_per_image=2,
        question_weight=0.5,
        seed=11,
    )
    family = train_family(name, seeing, settings)
    fresh = draw_scenes(60, 987_654)
    if name == "llava":
        score, blank = DualEncoderVerifier, builders.build_verifier(family.verifier_processor)
    else:
        score, blank = Blip2Verifier, blip_builders.build_blip2(family.verifier_processor, untrained_clip())
    assert presence_auroc(score(blank, family.verifier_processor), fresh) < 0.65
    assert presence_auroc(score(family.verifier, family.verifier_processor), fresh) > 0.7

    rng = random.Random(3)
    examples = [
        [Example("Describe this image.", language.describe(rng, scene, 0.4), is_question=False)] for scene in fresh
    ]
    lesson = family.lesson(family.policy, family.processor, scene_pixels(fresh, family.processor))
    with torch.no_grad():
        loss, _ = lesson(list(range(len(fresh))), examples)
    assert loss < 0.3 * math.log(len(family.processor.tokenizer)), "nats per token; guessing costs the logarithm"
    policy = Policy(family.policy, family.processor)
    pictures = {"s": render_scene(fresh[0])}
    batch = policy.encode(["Describe this image."], ["s"], pictures.__getitem__)
    completions = policy.sample(batch, Decoding(0.0, 64))
    (text,), _ = policy.decode(completions.ids, completions.mask)
    assert text.strip().endswith("."), text
