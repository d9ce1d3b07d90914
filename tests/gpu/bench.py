"""What is measured: a LLaVA and a CLIP of random weights, and how much of everything; the configurations by name."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from tests.bench.worlds import training_params
from tests.pocket_models import favour
from transformers import (
    AutoModelForImageTextToText,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fisao_pipeline.models.checkpointing import checkpoint_activations
from fisao_pipeline.models.lora import attach_lora
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.shape import PolicyShape, shape_of_config
from fisao_pipeline.models.verifier import DualEncoderVerifier
from fisao_pipeline.params.lora import LoraParams
from fisao_pipeline.params.policy_training import PPOParams
from fisao_pipeline.pocket import builders

WORDS = [f"a photo of a {word}" for word in ("dog", "cat", "bench", "car", "traffic light", "bird", "boat", "clock")]
PROMPT = "Describe this image in detail."
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Bench:
    """Sizes of the models, and how much of everything.

    Attributes:
        name: Of the configuration.
        vision: Of both the policy's tower and the verifier's.
        text: Of the policy's language tower.
        clip_text: Of the verifier's text tower.
        dtype: Of both models' weights.
        prompts: One picture each.
        responses: K of each prompt.
        new_tokens: Of each response.
        sampling_batch: Responses drawn at once.
        ppo: One round; its micro-batch and batch are what is measured.
        lora: The adapter.
        checkpointing: Whether activations are computed again.
    """

    name: str
    vision: CLIPVisionConfig
    text: LlamaConfig
    clip_text: CLIPTextConfig
    dtype: str
    prompts: int
    responses: int
    new_tokens: int
    sampling_batch: int
    ppo: PPOParams
    lora: LoraParams
    checkpointing: bool

    def shape(self) -> PolicyShape:
        """The policy's sizes; no weights are made."""
        return shape_of_config(self._config(image_token_id=0), self.dtype, self.lora)

    def policy(self, device: str) -> Policy:
        """The policy with a fresh adapter, and a value head where the trainer has one. It never ends a sentence."""
        processor = builders.build_policy_processor([PROMPT, *WORDS])
        processor.image_processor, processor.patch_size = self._pictures(), self.vision.patch_size
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(
                self._config(processor.tokenizer.image_token_id), dtype=getattr(torch, self.dtype)
            )
        # Random weights would end one anywhere: the end token is put out of reach and there is no other, so that the
        # work is known. So are ids without a token in the tokenizer: decoding them is slow as with no real ones.
        model.generation_config.eos_token_id = None
        policy = Policy(attach_lora(model.requires_grad_(False), self.lora), processor)
        unknown = range(len(processor.tokenizer), self.text.vocab_size)
        favour(policy, [processor.tokenizer.eos_token_id, *unknown], -1e4)
        if self.checkpointing:
            checkpoint_activations(policy.backbone)
        if self.ppo.advantage == "gae":
            policy.add_value_head(self.ppo.value_width)
        return policy

    def verifier(self, device: str) -> DualEncoderVerifier:
        """A CLIP around a tower of the policy's size."""
        processor = builders.build_verifier_processor(WORDS)
        processor.image_processor = self._pictures()
        config = CLIPConfig(
            text_config={**self.clip_text.to_dict(), "vocab_size": len(processor.tokenizer)},
            vision_config=self.vision.to_dict(),
            projection_dim=self.clip_text.projection_dim,
        )
        with torch.device(device):
            model = CLIPModel._from_config(config, dtype=getattr(torch, self.dtype))
        return DualEncoderVerifier(model, processor)

    def _config(self, image_token_id: int) -> LlavaConfig:
        return LlavaConfig(
            vision_config=self.vision.to_dict(),
            text_config=self.text.to_dict(),
            image_token_index=image_token_id,
            image_seq_length=(self.vision.image_size // self.vision.patch_size) ** 2,
        )

    def _pictures(self) -> CLIPImageProcessorPil:
        side = self.vision.image_size
        return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def picture(image_id: str) -> Image.Image:
    """A COCO-sized picture of noise."""
    noise = np.random.default_rng(int(image_id)).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def tiny(**changes: Any) -> Bench:
    """So small that a CPU measures it in seconds: for tests, and to try the command."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    given = {
        "name": "tiny",
        "vision": CLIPVisionConfig(**small, image_size=32, patch_size=16),
        "text": LlamaConfig(**small, vocab_size=600),
        "clip_text": CLIPTextConfig(**small, projection_dim=16),
        "dtype": "float32",
        "prompts": 4,
        "responses": 2,
        "new_tokens": 6,
        "sampling_batch": 4,
        "ppo": _ppo(batch_size=8, micro_batch_size=4),
        "lora": LoraParams(rank=2, alpha=4, targets=LORA_TARGETS),
        "checkpointing": False,
    }
    return Bench(**{**given, **changes})


def target(**changes: Any) -> Bench:
    """What the targets speak of: LLaVA-1.5-7B in bfloat16, K = 4 × 32 pictures, 512 new tokens, no checkpointing.

    LLaVA-1.5's sizes are CLIP ViT-L/14's at 336 pixels and Vicuna-7B's with its extended vocabulary. Half the responses
    are drawn at once, for with all of them it would be 66 GB, and a target is 60.
    """
    given = {
        "name": "target",
        "vision": CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        ),
        "text": LlamaConfig(vocab_size=32064, max_position_embeddings=4096),
        "clip_text": CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
        ),
        "dtype": "bfloat16",
        "prompts": 32,
        "responses": 4,
        "new_tokens": 512,
        "sampling_batch": 64,
        "ppo": _ppo(batch_size=64, micro_batch_size=4),
        "lora": LoraParams(rank=64, alpha=128, targets=LORA_TARGETS),
        "checkpointing": False,
    }
    return Bench(**{**given, **changes})


def quick() -> Bench:
    """The same model for a look: fewer and shorter responses, activations computed again."""
    ppo = _ppo(batch_size=64, micro_batch_size=8)
    return target(name="quick", prompts=16, new_tokens=128, ppo=ppo, checkpointing=True)


CONFIGS = {make.__name__: make for make in (tiny, quick, target)}


def _ppo(**sizes: int) -> PPOParams:
    """As shipped, in one epoch of small steps; between sampler and trainer may lie what `conf/llava15` allows."""
    return training_params(epochs=1, learning_rate=1e-6, value_learning_rate=1e-6, logprob_tolerance=0.1, **sizes).ppo
