"""The two families of pocket models, each trained for two steps."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import CLIPModel, PreTrainedModel, ProcessorMixin

from fisao_pipeline.params.pocket import PocketVerifierParams, PocketVLMParams
from fisao_pipeline.pocket import builders, captioning, contrastive, language
from fisao_pipeline.pocket.scenes import draw_scenes

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


@dataclass(frozen=True)
class Family:
    """A verifier and the policy around its image tower, with what makes a lesson of the policy's kind."""

    name: str
    verifier: PreTrainedModel
    verifier_processor: ProcessorMixin
    policy: PreTrainedModel
    processor: ProcessorMixin
    lesson: Callable[..., Any]

    @property
    def policy_tower(self) -> PreTrainedModel:
        return self.policy.model.vision_tower if self.name == "llava" else self.policy.vision_model


def untrained_clip() -> CLIPModel:
    """Which is enough of a CLIP to have its tower transplanted."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return builders.build_verifier(builders.build_verifier_processor(["a dog", "a cat"])).eval()


def train_family(name: str, verifier_params: PocketVerifierParams, params: PocketVLMParams) -> Family:
    clip = contrastive.train_clip(verifier_params)
    llava = captioning.train_llava(clip[0], params)
    if name == "llava":
        return Family(name, *clip, *llava, captioning.LlavaLesson)
    blip2 = contrastive.train_blip2(clip[0], verifier_params)
    instructblip = captioning.train_instructblip(blip2, llava, params)
    return Family(name, *blip2, *instructblip, captioning.InstructBlipLesson)


@pytest.fixture(scope="session", params=["llava", "instructblip"])
def family(request) -> Family:
    return train_family(request.param, TINY_VERIFIER, TINY_VLM)


@pytest.fixture(scope="session")
def captions() -> list[str]:
    rng = random.Random(0)
    return [language.describe(rng, scene, 0.5) for scene in draw_scenes(600, 1)]
