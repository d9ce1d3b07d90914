"""How fast a LLaVA of random weights samples, is annotated and learns on a device, and what of it: MFU, peak memory."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
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
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.loading import how_it_runs
from fisao_pipeline.models.lora import attach_lora
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.shape import PolicyShape, shape_of_config
from fisao_pipeline.models.verifier import DualEncoderVerifier
from fisao_pipeline.params.lora import LoraParams
from fisao_pipeline.params.policy_training import PPOParams
from fisao_pipeline.planning.work import forward_flops, update_flops
from fisao_pipeline.pocket import builders
from fisao_pipeline.training.learning import adapter_optimizer
from fisao_pipeline.training.ppo import ppo_round, score_rollouts
from fisao_pipeline.training.rollouts import build_rollouts
from fisao_pipeline.training.sampling import sample_responses

WORDS = [f"a photo of a {word}" for word in ("dog", "cat", "bench", "car", "traffic light", "bird", "boat", "clock")]
PROMPT = "Describe this image in detail."


@dataclass(frozen=True)
class Bench:
    """What is run: sizes of the models, and how much of everything.

    Attributes:
        vision: Of both the policy's tower and the verifier's.
        text: Of the policy's language tower.
        clip_text: Of the verifier's text tower.
        dtype: Of both models' weights.
        prompts: One picture each.
        responses: K of each prompt.
        new_tokens: Of each response.
        ppo: One round; its micro-batch and batch are what is measured.
        lora: The adapter.
        checkpointing: Whether activations are computed again.
    """

    vision: CLIPVisionConfig
    text: LlamaConfig
    clip_text: CLIPTextConfig
    dtype: str
    prompts: int
    responses: int
    new_tokens: int
    ppo: PPOParams
    lora: LoraParams
    checkpointing: bool

    def policy(self, device: str) -> tuple[Policy, PolicyShape]:
        """The policy with a fresh adapter, and its sizes."""
        processor = builders.build_policy_processor([PROMPT, *WORDS])
        processor.image_processor, processor.patch_size = self._pictures(), self.vision.patch_size
        config = LlavaConfig(
            vision_config=self.vision.to_dict(),
            text_config=self.text.to_dict(),
            image_token_index=processor.tokenizer.image_token_id,
            image_seq_length=(self.vision.image_size // self.vision.patch_size) ** 2,
        )
        shape = shape_of_config(config, self.dtype, self.lora)
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, self.dtype))
        # Random weights end a sentence anywhere: none ends here, so that the work is known.
        model.generation_config.eos_token_id = None
        policy = Policy(attach_lora(model.requires_grad_(False), self.lora), processor)
        if self.checkpointing:
            checkpoint_activations(policy.backbone)
        return policy, shape

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

    def _pictures(self) -> CLIPImageProcessorPil:
        side = self.vision.image_size
        return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def picture(image_id: str) -> Image.Image:
    """A COCO-sized picture of noise."""
    noise = np.random.default_rng(int(image_id)).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def measure(bench: Bench, device: str, peak_flops: float | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything twice on one device, the first time to warm up, and time the second.

    MFU counts a forward pass as `planning.work` does (2 N a token and its attention) and a LoRA step as twice that:
    gradients go through frozen weights and not to them. What gradient checkpointing computes again does not count.

    Args:
        bench: What is run.
        device: `cpu`, `cuda`, …
        peak_flops: The device's peak per second in this precision; None leaves MFU out.
        say: Takes a line for each thing measured.

    Returns:
        By phase `seconds`, `per_second` (of `unit`), `mfu` and `peak_bytes` (CUDA; else None); and what was run on.
    """
    found: dict[str, Any] = {}
    torch.manual_seed(0)
    verifier = bench.verifier(device)
    policy, shape = bench.policy(device)
    runs_on = {"policy": how_it_runs(policy.backbone), "verifier": how_it_runs(verifier.model)}
    for name, words in runs_on.items():
        say(f"{name}: {words}")
    ids = [str(number) for number in range(bench.prompts)]
    named = {"prompt_id": ids, "image_id": ids, "prompt": PROMPT, "split": "training"}
    prompts = pd.DataFrame(named)
    optimizer = adapter_optimizer(policy, bench.ppo)
    lengths = policy.encode.count_tokens([PROMPT], [(640, 480)])
    prompt_tokens, drawn = bench.prompts * lengths[0], bench.prompts * bench.responses * bench.new_tokens
    packed = lengths[0] + bench.responses * bench.new_tokens
    all_tokens = bench.prompts * packed
    forward = forward_flops(shape, all_tokens, packed, drawn)
    vision = sum(p.numel() for p in verifier.model.vision_model.parameters())
    patches = (bench.vision.image_size // bench.vision.patch_size) ** 2
    work = {
        "annotation": (bench.prompts, "pictures", 2.0 * vision * patches * bench.prompts),
        "sampling": (
            drawn,
            "new tokens",
            forward_flops(shape, prompt_tokens + drawn, lengths[0] + bench.new_tokens / 2, drawn),
        ),
        "scoring": (2 * all_tokens, "tokens", 2 * forward),
        "update": (all_tokens, "tokens", update_flops(shape, all_tokens, packed, drawn, checkpointing=False)),
    }
    state: dict[str, Any] = {}

    def annotate() -> None:
        verifier._images.clear()
        verifier._texts.clear()
        count = len(ids) * len(WORDS)
        state["scores"] = verifier.score([i for i in ids for _ in WORDS], WORDS * len(ids), picture)
        assert len(state["scores"]) == count

    def sample() -> None:
        args = (policy, prompts, picture, Decoding(1.0, bench.new_tokens), bench.responses)
        state["responses"] = sample_responses(*args, batch_size=bench.prompts * bench.responses, seed=0)

    def score() -> None:
        responses = state["responses"]
        paid = responses["token_ids"].map(lambda row: [float(token % 2) for token in row])
        rewards = pd.DataFrame({"response_id": responses["response_id"], "token_rewards": paid})
        rollouts = build_rollouts(responses, prompts, rewards, policy.device)
        state["scored"] = score_rollouts(policy, rollouts, picture, 1.0, bench.ppo, bench.ppo.kl_coef)

    def update() -> None:
        state["step"] = ppo_round(policy, optimizer, state["scored"], picture, 1.0, bench.ppo, seed=0)

    for name, run in (("annotation", annotate), ("sampling", sample), ("scoring", score), ("update", update)):
        run()
        seconds, peak_bytes = _timed(run, policy.device)
        count, unit, flops = work[name]
        mfu = flops / seconds / peak_flops if peak_flops else None
        found[name] = {"seconds": seconds, "per_second": count / seconds, "unit": unit, "flops": flops, "mfu": mfu}
        found[name]["peak_bytes"] = peak_bytes
        say(format_phase(name, found[name]))
    drawn_tokens = int(state["responses"]["token_ids"].str.len().sum())
    assert drawn_tokens == drawn, "the work that was counted is the work that was done"
    return {**found, "runs_on": runs_on, "new_tokens": drawn_tokens, "step": state["step"], "shape": shape}


def format_phase(name: str, phase: Mapping[str, Any]) -> str:
    """One line."""
    mfu = "" if phase["mfu"] is None else f", MFU {phase['mfu']:.2%}"
    peak = "" if phase["peak_bytes"] is None else f", peak {phase['peak_bytes'] / 2**30:.2f} GiB"
    return f"{name}: {phase['per_second']:,.1f} {phase['unit']}/s, {phase['seconds']:.3f} s{mfu}{peak}"


def _timed(run: Callable[[], None], device: torch.device) -> tuple[float, int | None]:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return seconds, torch.cuda.max_memory_allocated() if on_gpu else None
