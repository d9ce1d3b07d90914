"""What the benchmarks have in common: the settings as shipped, responses, and CLIP at ViT-B/32's size."""

import io
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from PIL import Image
from tests.pocket_models import PocketWorld
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fisao_pipeline.method.object_spans import ObjectVocabulary
from fisao_pipeline.models.offsets import decode_with_offsets
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import PromptEncoder
from fisao_pipeline.models.verifier import DualEncoderVerifier
from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.pocket import builders, language
from fisao_pipeline.training.annotation import GroundTruth, calibrate
from fisao_pipeline.training.loop import Annotator

CONF = Path(__file__).parents[2] / "conf" / "base"
BASELINE = {
    "correct_mean": 0.47,
    "hallucinated_mean": 0.18,
    "std": 0.1,
    "mixing_weight": 0.7,
    "sentence_mean": 0.3,
    "sentence_std": 0.1,
}


def shipped_block(name: str) -> dict[str, Any]:
    """A block of parameters as `conf/base` has it."""
    return yaml.safe_load((CONF / f"parameters_{name}.yml").read_text(encoding="utf-8"))[name]


def training_params(**ppo: Any) -> PolicyTrainingParams:
    """The shipped training parameters with some of PPO's replaced; no round ends early, so that the work is known."""
    block = shipped_block("policy_training")
    return PolicyTrainingParams.model_validate({**block, "ppo": {**block["ppo"], "max_round_kl_nats": None, **ppo}})


def forget_pictures(policy: Policy) -> None:
    """Nothing is encoded yet, as when all pictures of a round are new."""
    policy.encode = PromptEncoder(policy.backbone, policy.processor)


def annotator(world: PocketWorld, verifier: DualEncoderVerifier, open_image: Callable[[str], Image.Image]) -> Annotator:
    """The shipped reward around a fixed baseline."""
    block = {**shipped_block("reward_annotation"), "calibration": "fixed", "fixed_baseline": BASELINE}
    params = RewardAnnotationParams.model_validate(block)
    vocabulary = ObjectVocabulary.load(params.vocabulary)
    truth = GroundTruth.read(world.manifest, vocabulary.categories, vocabulary)
    nothing = pd.DataFrame({"split": []})
    baseline = calibrate(nothing, nothing, verifier, params, open_image)
    return Annotator(verifier, vocabulary, baseline, params, open_image, truth)


def written_responses(world: PocketWorld, tokenizer: Any, completions: int, seed: int = 0) -> pd.DataFrame:
    """Captions of the world's pictures, some of their objects made up, as rows of the ``responses`` table."""
    rng = random.Random(seed)
    pairs = [
        (image_id, language.describe(rng, scene, 0.5))
        for image_id, scene in zip(world.images, world.scenes, strict=True)
        for _ in range(completions)
    ]
    image_ids, texts = zip(*pairs, strict=True)
    return as_responses(tokenizer, image_ids, texts)


def as_responses(tokenizer: Any, image_ids: Sequence[str], texts: Sequence[str]) -> pd.DataFrame:
    """What the annotation reads of responses, of texts that somebody else has drawn."""
    rows = []
    for number, (image_id, text) in enumerate(zip(image_ids, texts, strict=True)):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        said, spans = decode_with_offsets(tokenizer, ids)
        place = {"token_starts": [start for start, _ in spans], "token_ends": [end for _, end in spans]}
        who = {"response_id": str(number), "image_id": image_id, "split": "training"}
        rows.append({**who, "text": said, "token_ids": ids, **place})
    return pd.DataFrame(rows)


def vit_b_32() -> DualEncoderVerifier:
    """CLIP ViT-B/32's size and context with random weights."""
    processor = builders.build_verifier_processor(["a photo of a dog"])
    processor.image_processor = CLIPImageProcessorPil()
    config = CLIPConfig()
    config.text_config.vocab_size = len(processor.tokenizer)
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    torch.manual_seed(0)
    return DualEncoderVerifier(CLIPModel(config), processor)


def photographs(world: PocketWorld) -> Callable[[str], Image.Image]:
    """The world's pictures at 640 x 480, decoded from JPEG each time that one is opened."""
    encoded = {}
    for image_id, image in world.images.items():
        stream = io.BytesIO()
        image.resize((640, 480), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        encoded[image_id] = stream.getvalue()
    return lambda image_id: Image.open(io.BytesIO(encoded[image_id])).convert("RGB")
