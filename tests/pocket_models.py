"""Untrained pocket models and a few scenes: what tests of models, training and pipelines share."""

import random
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from PIL import Image

from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.models.verifier import DualEncoderVerifier, load_verifier
from fisao_pipeline.params.lora import LoraParams
from fisao_pipeline.pocket import builders, language
from fisao_pipeline.pocket.scenes import CANVAS_PIXELS, Scene, draw_scenes, render_scene

LORA = LoraParams(rank=4, alpha=8, targets=("q_proj", "v_proj", "down_proj"))
SPLITS = ("calibration", "training", "training", "training", "probe", "held_out")


def build_pocket_models(folder: Path) -> Path:
    """Save an untrained verifier and an untrained VLM, with tokenizers from a few hundred captions."""
    rng = random.Random(0)
    scenes = draw_scenes(300, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        verifier_processor = builders.build_verifier_processor(language.short_caption(rng, s) for s in scenes)
        verifier = builders.build_verifier(verifier_processor)
        texts = [language.describe(rng, s, 0.5) for s in scenes]
        texts += [f"USER: {prompt} ASSISTANT:" for prompt in language.CAPTION_PROMPTS] * 20
        policy_processor = builders.build_policy_processor(texts)
        policy = builders.build_policy(policy_processor, verifier)
    for name, model, processor in (
        ("pocket_verifier", verifier, verifier_processor),
        ("pocket_vlm", policy, policy_processor),
    ):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


@dataclass(frozen=True)
class PocketWorld:
    """Model folders and the tables of a small ingested world."""

    models: Path
    scenes: tuple[Scene, ...]
    images: dict[str, Image.Image]
    manifest: pd.DataFrame
    prompts: pd.DataFrame

    @classmethod
    def make(cls, models: Path, count: int = 24) -> "PocketWorld":
        scenes = tuple(draw_scenes(count, seed=5))
        ids = [f"i{number:02d}" for number in range(count)]
        objects = [sorted(scene.counts) for scene in scenes]
        prompts = pd.DataFrame(
            {
                "prompt_id": [f"p{number:02d}" for number in range(count)],
                "image_id": ids,
                "prompt": [language.CAPTION_PROMPTS[n % len(language.CAPTION_PROMPTS)] for n in range(count)],
                "split": [SPLITS[n % len(SPLITS)] for n in range(count)],
            }
        )
        side = {"width": CANVAS_PIXELS, "height": CANVAS_PIXELS}
        manifest = pd.DataFrame({"image_id": ids, "objects": objects, **side})
        images = {i: render_scene(scene) for i, scene in zip(ids, scenes, strict=True)}
        return cls(models, scenes, images, manifest, prompts)

    def open_image(self, image_id: str) -> Image.Image:
        return self.images[image_id]

    @property
    def policy_source(self) -> ModelSource:
        return ModelSource(str(self.models / "pocket_vlm"), dtype="float32", device="cpu")

    @property
    def verifier_source(self) -> ModelSource:
        return ModelSource(str(self.models / "pocket_verifier"), dtype="float32", device="cpu")

    def policy(self, lora: LoraParams | None = LORA, seed: int = 0) -> Policy:
        """The backbone with a fresh adapter."""
        torch.manual_seed(seed)
        return Policy.load(self.policy_source, lora=lora)

    def verifier(self) -> DualEncoderVerifier:
        return load_verifier(self.verifier_source)

    def batch(self, policy: Policy, count: int = 6):
        """The first prompts, encoded; they differ in length."""
        part = self.prompts.head(count)
        return policy.encode(part["prompt"].tolist(), part["image_id"].tolist(), self.open_image)


def stir(policy: Policy, scale: float = 0.1, seed: int = 3) -> Policy:
    """Give a fresh adapter weights as if it had been trained: its second factor starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.model.named_parameters():
        if ".lora_B." in name:
            parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return policy


def favour(policy: Policy, tokens: int | list[int], logit: float) -> Policy:
    """Add a constant to the logit of one token or some, through a bias on the output layer."""
    head = policy.backbone.lm_head
    like = {"device": head.weight.device, "dtype": head.weight.dtype}
    biased = torch.nn.utils.skip_init(torch.nn.Linear, head.in_features, head.out_features, **like)
    biased.weight.data.copy_(head.weight)
    biased.bias.data.zero_()
    biased.bias.data[tokens] = logit
    policy.backbone.lm_head = biased.requires_grad_(False)
    return policy
