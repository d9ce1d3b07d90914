"""The recipe of the pocket models: what is learnt from, that it learns, and that the shipped ones have learnt."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fisao_pipeline.method.calibration import auroc
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.models.verifier import DualEncoderVerifier, load_verifier
from fisao_pipeline.params import PocketVerifierParams, PocketVLMParams
from fisao_pipeline.pocket import builders, language, training
from fisao_pipeline.pocket.scenes import CATEGORIES, draw_scenes, render_scene

SHIPPED = Path(__file__).parents[2] / "data" / "06_models"
shipped = pytest.mark.skipif(
    not all((SHIPPED / name / "config.json").is_file() for name in ("pocket_verifier", "pocket_vlm")),
    reason="the pocket models are not in data/06_models; build them with `kedro run --pipelines=pocket_world`",
)

TINY_VERIFIER = PocketVerifierParams(scenes=64, steps=2, batch_size=8, learning_rate=1e-3, seed=1)
TINY_VLM = PocketVLMParams(
    scenes=64,
    phases=({"steps": 2, "learning_rate": 1e-3, "invent_share": 0.5},),
    batch_size=4,
    captions_per_image=1,
    questions_per_image=1,
    question_weight=0.5,
    seed=1,
)


@pytest.fixture(scope="module")
def captions() -> list[str]:
    rng = random.Random(0)
    return [language.describe(rng, scene, 0.5) for scene in draw_scenes(600, 1)]


@pytest.fixture(scope="module")
def policy_processor(captions):
    return builders.build_policy_processor(captions)


@pytest.fixture(scope="module")
def tiny_models():
    verifier, _ = training.train_verifier(TINY_VERIFIER)
    return verifier, *training.train_vlm(verifier, TINY_VLM)


def presence_auroc(verifier: DualEncoderVerifier, scenes, template: str) -> float:
    """How well the cosine tells what is in a picture from what is not, over all categories."""
    pictures = {f"s{n}": render_scene(scene) for n, scene in enumerate(scenes)}
    texts = [template.format(category) for category in CATEGORIES]
    ids = [i for i in pictures for _ in texts]
    scores = verifier.score(ids, texts * len(pictures), pictures.__getitem__)
    present = torch.tensor([category in scene.counts for scene in scenes for category in CATEGORIES])
    return auroc(scores[present], scores[~present])


# --- builders ------------------------------------------------------------------------------------------------------


def test_names_fall_into_several_tokens(policy_processor):
    """As in the tokenizers of large models, so that a reward's place among sub-words matters."""
    tokenizer = policy_processor.tokenizer
    lengths = {name: len(tokenizer(name, add_special_tokens=False)["input_ids"]) for name in CATEGORIES}
    assert sum(length > 1 for length in lengths.values()) > 20, lengths


def test_tokenizers_are_the_same_in_every_process():
    """Numbers that come from the order of a hash map would differ, and with them the models, from run to run."""
    script = (
        "import hashlib, random; from fisao_pipeline.pocket import builders, language, scenes; "
        "rng = random.Random(0); own = scenes.draw_scenes(200, 1); "
        "texts = [language.describe(rng, scene, 0.5) for scene in own]; "
        "built = [builders.build_verifier_processor(texts), builders.build_policy_processor(texts)]; "
        "print(*(hashlib.sha256(p.tokenizer.backend_tokenizer.to_str().encode()).hexdigest() for p in built))"
    )
    printed = {
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(printed) == 1, printed


def test_any_text_survives_the_policys_tokenizer(policy_processor):
    tokenizer = policy_processor.tokenizer
    for text in ("A café for two 🐕!", "line\nbreak", *language.CAPTION_PROMPTS):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_models_are_small():
    verifier = builders.build_verifier(builders.build_verifier_processor(["a dog", "a cat"]))
    assert sum(p.numel() for p in verifier.parameters()) < 1.2e6


def test_the_policy_sees_through_the_verifiers_own_eyes(tiny_models):
    verifier, policy, _ = tiny_models
    tower = policy.model.vision_tower.state_dict()
    own = verifier.vision_model.state_dict()
    assert set(tower) == set(own)
    assert all(torch.equal(tower[name], own[name]) for name in own), "training the captioner must not move them"


# --- examples ------------------------------------------------------------------------------------------------------


def as_conversations(batch: training.TrainingBatch, row: int) -> list[torch.Tensor]:
    """The tokens that each turn of one picture sees, itself included, in the order of their positions."""
    packed = batch.packed
    ends = packed.predictor[torch.arange(len(batch.turn_ids)), batch.answer_mask.int().argmax(dim=1)]
    turns = [int(end) - row * packed.input_ids.shape[1] for end in ends if int(end) // packed.input_ids.shape[1] == row]
    seen = [packed.attention_mask[row, 0, turn].nonzero().squeeze(1) for turn in turns]
    return [packed.input_ids[row, places[packed.position_ids[row, places].argsort()]] for places in seen]


def test_only_answers_are_learnt_each_behind_its_own_prompt(policy_processor):
    tokenizer = policy_processor.tokenizer
    caption = training.Example("Describe this image.", "There is a dog on a street.", is_question=False)
    question = training.Example("Is there a cat in the image?", "No.", is_question=True)
    batch = training.ExampleEncoder(policy_processor, 36)([[caption, question], [question]])
    for turn, example in enumerate([caption, question, question]):
        learnt = batch.turn_ids[turn][batch.answer_mask[turn]]
        assert tokenizer.decode(learnt, skip_special_tokens=True).strip() == example.answer
        assert learnt[-1] == tokenizer.eos_token_id
    assert batch.is_question.tolist() == [False, True, True]
    for row, own in enumerate([[caption, question], [question]]):
        for tokens, example in zip(as_conversations(batch, row), own, strict=True):
            assert tokenizer.decode(tokens, skip_special_tokens=False).endswith(f"{example.prompt} ASSISTANT:")
            assert (tokens == tokenizer.image_token_id).sum() == 36


def test_a_prompt_is_trained_on_as_the_policy_will_ask_it(policy_processor):
    """The tokens before the answer are those that the processor makes of the same question."""
    example = training.Example("What do you see?", "Yes.", is_question=False)
    batch = training.ExampleEncoder(policy_processor, 36)([[example]])
    (seen,) = as_conversations(batch, 0)
    content = [{"type": "image"}, {"type": "text", "text": "What do you see?"}]
    text = policy_processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    picture = render_scene(draw_scenes(1, 0)[0])
    asked = policy_processor(text=text, images=picture, return_tensors="pt")["input_ids"][0]
    assert torch.equal(asked[-len(seen) :], seen)


def test_packed_examples_cost_what_single_ones_do(tiny_models):
    """Captions and answers behind one picture: the same mean loss as every example in a forward pass of its own."""
    _, policy, processor = tiny_models
    rng = random.Random(5)
    scenes = draw_scenes(3, 4)
    examples = [
        [training.Example("Describe this image.", language.describe(rng, scene, 0.5), is_question=False)] * 2
        + [training.Example(*language.ask(rng, scene), is_question=True)]
        for scene in scenes
    ]
    encode = training.ExampleEncoder(processor, policy.config.image_seq_length)
    pixels = training.scene_pixels(scenes, processor)
    with torch.no_grad():
        features = training._tower_features(policy.model, pixels)
        caption, question = training.answer_losses(policy, features, encode(examples))
    losses = {False: [], True: []}
    for row, own in enumerate(examples):
        for example in own:
            head, answer = encode.head_ids(example.prompt), encode.answer_ids(example.answer)
            with torch.no_grad():
                logits = policy(input_ids=torch.tensor([head + answer]), pixel_values=pixels[[row]]).logits[0]
            own_losses = torch.nn.functional.cross_entropy(
                logits[len(head) - 1 : -1], torch.tensor(answer), reduction="none"
            )
            losses[example.is_question].append(own_losses)
    torch.testing.assert_close(caption, torch.cat(losses[False]).mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(question, torch.cat(losses[True]).mean(), atol=1e-5, rtol=1e-5)


def test_the_features_trained_on_are_those_the_model_computes_itself(tiny_models):
    _, policy, processor = tiny_models
    pixels = training.scene_pixels(draw_scenes(3, 9), processor)
    with torch.no_grad():
        ours = policy.model.multi_modal_projector(training._tower_features(policy.model, pixels))
        theirs = policy.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    torch.testing.assert_close(ours, torch.stack(list(theirs)), atol=1e-5, rtol=1e-5)


# --- the shipped models --------------------------------------------------------------------------------------------


@shipped
def test_the_shipped_models_are_small():
    files = [f for name in ("pocket_verifier", "pocket_vlm") for f in (SHIPPED / name).rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 10e6


@shipped
def test_the_shipped_verifier_tells_what_is_in_a_picture():
    verifier = load_verifier(ModelSource(str(SHIPPED / "pocket_verifier"), dtype="float32", device="cpu"))
    assert presence_auroc(verifier, draw_scenes(200, 987_654), "a photo of a {}") >= 0.95


@shipped
def test_the_shipped_policy_speaks_of_the_world():
    policy = Policy.load(ModelSource(str(SHIPPED / "pocket_vlm"), dtype="float32", device="cpu"))
    scenes = draw_scenes(8, 987_654)
    pictures = {f"s{n}": render_scene(scene) for n, scene in enumerate(scenes)}
    batch = policy.encode([language.CAPTION_PROMPTS[0]] * 8, list(pictures), pictures.__getitem__)
    completions = policy.sample(batch, Decoding(0.0, 64))
    texts, _ = policy.decode(completions.ids, completions.mask)
    assert all(text.strip().endswith(".") for text in texts), texts
    named = sum(category in text for text, scene in zip(texts, scenes, strict=True) for category in scene.counts)
    assert named > sum(len(scene.counts) for scene in scenes) / 2


@shipped
def test_the_shipped_policys_eyes_are_the_shipped_verifiers():
    from safetensors.torch import load_file

    verifier = load_file(SHIPPED / "pocket_verifier" / "model.safetensors")
    policy = load_file(SHIPPED / "pocket_vlm" / "model.safetensors")
    eyes = {name.split("vision_tower.")[1]: tensor for name, tensor in policy.items() if "vision_tower." in name}
    assert eyes
    for name, tensor in eyes.items():
        match = verifier[f"vision_model.{name.removeprefix('vision_model.')}"]
        assert torch.equal(tensor, match), name


@shipped
def test_the_shipped_models_need_no_code_of_their_own():
    for name in ("pocket_verifier", "pocket_vlm"):
        assert "auto_map" not in json.loads((SHIPPED / name / "config.json").read_text())
        assert not list((SHIPPED / name).glob("*.py"))


# --- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_recipe_learns(tmp_path):
    """At a fraction of its size: the verifier sees, and the captioner's answers come to have the form of captions."""
    params = PocketVerifierParams(scenes=1500, steps=250, batch_size=96, learning_rate=1.5e-3, seed=7)
    verifier, processor = training.train_verifier(params)
    fresh = draw_scenes(60, 987_654)
    untrained = DualEncoderVerifier(builders.build_verifier(processor), processor)
    assert presence_auroc(untrained, fresh, "a photo of a {}") < 0.65
    assert presence_auroc(DualEncoderVerifier(verifier, processor), fresh, "a photo of a {}") > 0.7

    settings = PocketVLMParams(
        scenes=1500,
        phases=({"steps": 120, "learning_rate": 1.5e-3, "invent_share": 0.4},),
        batch_size=16,
        captions_per_image=2,
        questions_per_image=2,
        question_weight=0.5,
        seed=11,
    )
    trained, policy_processor = training.train_vlm(verifier, settings)
    rng = random.Random(3)
    examples = [
        [training.Example("Describe this image.", language.describe(rng, scene, 0.4), is_question=False)]
        for scene in fresh
    ]
    losses = [
        _loss(model, policy_processor, fresh, examples)
        for model in (builders.build_policy(policy_processor, verifier), trained)
    ]
    assert losses[1] < 0.5 * losses[0]
    policy = Policy(trained, policy_processor)
    pictures = {"s": render_scene(fresh[0])}
    batch = policy.encode(["Describe this image."], ["s"], pictures.__getitem__)
    completions = policy.sample(batch, Decoding(0.0, 64))
    (text,), _ = policy.decode(completions.ids, completions.mask)
    assert text.strip().endswith("."), text


@torch.no_grad()
def _loss(model, processor, scenes, examples) -> float:
    encode = training.ExampleEncoder(processor, model.config.image_seq_length)
    features = training._tower_features(model.model, training.scene_pixels(scenes, processor))
    return float(training.answer_losses(model, features, encode(examples))[0])
