"""What the captioners learn from: only answers, each behind its own prompt, in the form in which it will be asked."""

import random

import pytest
import torch
from tests.pocket.conftest import TINY_VLM

from fisao_pipeline.models.policy import Policy
from fisao_pipeline.pocket import blip_builders, builders, examples
from fisao_pipeline.pocket.examples import Example
from fisao_pipeline.pocket.scenes import draw_scenes, render_scene

PATCHES = 36
CAPTION = Example("Describe this image.", "There is a dog on a street.", is_question=False)
QUESTION = Example("Is there a cat in the image?", "No.", is_question=True)


@pytest.fixture(scope="module")
def encoders(captions) -> dict[str, examples.ExampleEncoder]:
    llava = builders.build_policy_processor(captions)
    instructblip = blip_builders.build_instructblip_processor(blip_builders.build_blip2_processor(captions), llava)
    return {
        "llava": examples.LlavaEncoder(llava, PATCHES),
        "instructblip": examples.InstructBlipEncoder(instructblip),
    }


def as_conversations(batch: examples.TrainingBatch, row: int) -> list[torch.Tensor]:
    """The tokens that each turn of one picture sees before its answer, in the order of their positions."""
    packed = batch.packed
    ends = packed.predictor[torch.arange(len(batch.turn_ids)), batch.answer_mask.int().argmax(dim=1)]
    turns = [int(end) - row * packed.input_ids.shape[1] for end in ends if int(end) // packed.input_ids.shape[1] == row]
    seen = [packed.attention_mask[row, 0, turn].nonzero().squeeze(1) for turn in turns]
    return [packed.input_ids[row, places[packed.position_ids[row, places].argsort()]] for places in seen]


@pytest.mark.parametrize(
    ("kind", "image_tokens", "ending"),
    [("llava", PATCHES, " ASSISTANT:"), ("instructblip", blip_builders.QUERY_TOKENS, "")],
)
def test_only_answers_are_learnt_each_behind_its_own_prompt(encoders, kind, image_tokens, ending):
    encode = encoders[kind]
    tokenizer = encode.tokenizer
    batch = encode([[CAPTION, QUESTION], [QUESTION]])
    for turn, example in enumerate([CAPTION, QUESTION, QUESTION]):
        learnt = batch.turn_ids[turn][batch.answer_mask[turn]]
        assert tokenizer.decode(learnt, skip_special_tokens=True).strip() == example.answer
        assert learnt[-1] == tokenizer.eos_token_id
    assert batch.is_question.tolist() == [False, True, True]
    for row, own in enumerate([[CAPTION, QUESTION], [QUESTION]]):
        for tokens, example in zip(as_conversations(batch, row), own, strict=True):
            assert tokenizer.decode(tokens, skip_special_tokens=False).endswith(f"{example.prompt}{ending}")
            assert (tokens == tokenizer.convert_tokens_to_ids("<image>")).sum() == image_tokens


def test_a_prompt_is_trained_on_as_the_policy_will_ask_it(family):
    """The tokens before the answer are those that a policy makes of the same question."""
    policy = Policy(family.policy, family.processor)
    picture = render_scene(draw_scenes(1, 0)[0])
    asked = policy.encode(["What do you see?"], ["picture"], {"picture": picture}.__getitem__).input_ids[0]
    encode = family.lesson(family.policy, family.processor, torch.zeros(1, 3, 48, 48)).encode
    (seen,) = as_conversations(encode([[Example("What do you see?", "Yes.", is_question=False)]]), 0)
    assert torch.equal(asked[-len(seen) :], seen)


def test_examples_of_a_scene_are_as_many_as_asked_for():
    params = TINY_VLM.model_copy(update={"captions_per_image": 2, "questions_per_image": 3})
    scene = draw_scenes(1, 0)[0]
    drawn = examples.draw_examples(random.Random(0), scene, params.phases[0], params)
    assert [example.is_question for example in drawn] == [False] * 2 + [True] * 3
    assert all(example.answer in ("Yes.", "No.") for example in drawn[2:])
    assert drawn == examples.draw_examples(random.Random(0), scene, params.phases[0], params)
