"""How the pocket models learnt what they know: a contrastive verifier, then a captioner that picks up bad habits."""

from __future__ import annotations

import logging
import math
import random

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import CLIPModel, CLIPProcessor, LlavaForConditionalGeneration, LlavaProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fisao_pipeline.params import PocketPhase, PocketVerifierParams, PocketVLMParams
from fisao_pipeline.pocket.builders import (
    IMAGE_TOKEN,
    build_policy,
    build_policy_processor,
    build_verifier,
    build_verifier_processor,
)
from fisao_pipeline.pocket.language import CAPTION_PROMPTS, ask, describe, short_caption
from fisao_pipeline.pocket.scenes import Scene, draw_scenes, render_scene

logger = logging.getLogger(__name__)


def scene_pixels(scenes: list[Scene], processor: CLIPProcessor | LlavaProcessor) -> Tensor:
    """Rendered and preprocessed scenes, [n, 3, side, side]."""
    chunks = [
        processor.image_processor([render_scene(s) for s in scenes[i : i + 256]], return_tensors="pt")["pixel_values"]
        for i in range(0, len(scenes), 256)
    ]
    return torch.cat(chunks)


def _cosine(step: int, steps: int, warmup: int = 50) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train_verifier(params: PocketVerifierParams) -> tuple[CLIPModel, CLIPProcessor]:
    """Train a CLIP on short true captions with CLIP's own symmetric contrastive loss."""
    torch.manual_seed(params.seed)
    rng = random.Random(params.seed)
    scenes = draw_scenes(params.scenes, params.seed)
    processor = build_verifier_processor(short_caption(rng, s) for s in scenes)
    model = build_verifier(processor).train()
    pixels = scene_pixels(scenes, processor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, params.steps))
    progress = tqdm(range(params.steps), desc="pocket verifier", unit="step")
    for _ in progress:
        chosen = rng.sample(range(params.scenes), params.batch_size)
        captions = [short_caption(rng, scenes[i]) for i in chosen]
        text = processor.tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        loss = model(**text, pixel_values=pixels[chosen], return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval(), processor


def _conversation(processor: LlavaProcessor, prompt: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return text


def encode_examples(
    processor: LlavaProcessor, image_tokens: int, pairs: list[tuple[str, str]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and labels [b, t] of (prompt, answer) pairs; labels are -100 off the answer."""
    tokenizer = processor.tokenizer
    rows, labels = [], []
    for prompt, answer in pairs:
        head = _conversation(processor, prompt).replace(IMAGE_TOKEN, IMAGE_TOKEN * image_tokens)
        head_ids = tokenizer(head, add_special_tokens=False)["input_ids"]
        # The blank before the answer belongs to its first token, as the policy will sample it.
        answer_ids = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        rows.append(torch.tensor(head_ids + answer_ids))
        labels.append(torch.tensor([-100] * len(head_ids) + answer_ids))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    return ids, mask, targets


def train_vlm(verifier: CLIPModel, params: PocketVLMParams) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Train the captioner around the verifier's frozen image tower.

    The captions name habitual objects that are not there (``invent_share`` of each phase); the yes/no answers are true.
    So the model sees well and invents all the same, for the reason real ones do.
    """
    torch.manual_seed(params.seed)
    rng = random.Random(params.seed)
    scenes = draw_scenes(params.scenes, params.seed)
    corpus = [describe(rng, s, 0.5) for s in scenes]
    corpus += [f"{prompt} {''.join(answer)}" for prompt, answer in (ask(rng, s) for s in scenes)]
    corpus += [f"USER: {p} ASSISTANT:" for p in CAPTION_PROMPTS] * 200
    processor = build_policy_processor(corpus)
    model = build_policy(processor, verifier).train()
    tower, image_tokens = model.model, model.config.image_seq_length
    pixels = scene_pixels(scenes, processor)
    with torch.no_grad():
        features = torch.cat([_tower_features(tower, pixels[i : i + 256]) for i in range(0, len(scenes), 256)])
    parameters = [p for p in model.parameters() if p.requires_grad]
    for number, phase in enumerate(params.phases):
        rng = random.Random(f"{params.seed}/{number}")
        optimizer = torch.optim.AdamW(parameters, lr=phase.learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step, n=phase.steps: _cosine(step, n))
        progress = tqdm(range(phase.steps), desc=f"pocket VLM, {phase.invent_share:.0%} inventing", unit="step")
        for _ in progress:
            chosen = rng.sample(range(params.scenes), params.batch_size)
            pairs = [_example(rng, scenes[i], phase) for i in chosen]
            ids, mask, labels = encode_examples(processor, image_tokens, pairs)
            projected = tower.multi_modal_projector(features[chosen])
            encoded = {"image": BaseModelOutputWithPooling(pooler_output=list(projected))}
            logits = model(input_ids=ids, attention_mask=mask, mm_encoder_outputs=encoded).logits
            loss = _answer_loss(logits[:, :-1], labels[:, 1:], phase.weigh)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            progress.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval(), processor


def _answer_loss(logits: Tensor, labels: Tensor, weigh: str) -> Tensor:
    """Cross entropy over answer tokens, weighing tokens alike or answers alike."""
    if weigh == "tokens":
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    return (losses.sum(dim=1) / (labels != -100).sum(dim=1)).mean()


def _tower_features(tower: torch.nn.Module, pixels: Tensor) -> Tensor:
    """What the projector reads: patch states of the configured layer without the class token, [b, patches, d]."""
    states = tower.vision_tower(pixels, output_hidden_states=True).hidden_states
    return states[tower.config.vision_feature_layer][:, 1:]


def _example(rng: random.Random, scene: Scene, phase: PocketPhase) -> tuple[str, str]:
    if rng.random() < phase.question_share:
        return ask(rng, scene)
    return rng.choice(CAPTION_PROMPTS), describe(rng, scene, phase.invent_share)
