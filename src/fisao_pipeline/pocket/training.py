"""How the pocket models learnt what they know: a contrastive verifier, then a captioner that picks up bad habits."""

from __future__ import annotations

import logging
import math
import random
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import CLIPModel, CLIPProcessor, LlavaForConditionalGeneration, LlavaProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fisao_pipeline.models.packing import Packed, pack_completions
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


@dataclass(frozen=True)
class Example:
    """One turn about a picture: what is asked, what is to be answered, and whether it is a yes/no question."""

    prompt: str
    answer: str
    is_question: bool


@dataclass(frozen=True)
class TrainingBatch:
    """Pictures, each with all its examples packed behind one copy of it.

    Attributes:
        packed: Prefix (up to the last image token) and turns of each picture.
        turn_ids: Tokens of each turn, what is asked and what is answered, [b, t].
        answer_mask: True on the answer's tokens, its end token included, [b, t].
        is_question: Turns that are yes/no questions, [b].
    """

    packed: Packed
    turn_ids: Int[Tensor, "b t"]
    answer_mask: Bool[Tensor, "b t"]
    is_question: Bool[Tensor, " b"]


class ExampleEncoder:
    """Examples as tokens, in the very form in which the policy will be asked."""

    def __init__(self, processor: LlavaProcessor, image_tokens: int):
        self.processor = processor
        self.image_tokens = image_tokens
        self._heads: dict[str, list[int]] = {}

    def head_ids(self, prompt: str) -> list[int]:
        """Tokens of a conversation about one picture up to where the answer starts."""
        if prompt not in self._heads:
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            turn = [{"role": "user", "content": content}]
            text = self.processor.apply_chat_template(turn, add_generation_prompt=True)
            text = text.replace(IMAGE_TOKEN, IMAGE_TOKEN * self.image_tokens)
            self._heads[prompt] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._heads[prompt]

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer and its end token."""
        tokenizer = self.processor.tokenizer
        return [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    def __call__(self, examples: list[list[Example]]) -> TrainingBatch:
        """Encode the examples of each picture."""
        image_id = self.processor.tokenizer.image_token_id
        prefix = self.head_ids("")
        width = len(prefix) - prefix[::-1].index(image_id)
        turns, answers, of_picture, questions = [], [], [], []
        for number, own in enumerate(examples):
            for example in own:
                head, answer = self.head_ids(example.prompt)[width:], self.answer_ids(example.answer)
                turns.append(torch.tensor(head + answer))
                answers.append(torch.tensor([False] * len(head) + [True] * len(answer)))
                of_picture.append(number)
                questions.append(example.is_question)
        ids = torch.nn.utils.rnn.pad_sequence(turns, batch_first=True)
        counts = torch.nn.utils.rnn.pad_sequence([torch.ones_like(a) for a in answers], batch_first=True)
        prefixes = torch.tensor(prefix[:width]).expand(len(examples), width)
        packed = pack_completions(prefixes, torch.ones_like(prefixes, dtype=torch.bool), ids, counts, of_picture)
        answer_mask = torch.nn.utils.rnn.pad_sequence(answers, batch_first=True)
        return TrainingBatch(packed, ids, answer_mask, torch.tensor(questions))


def answer_losses(
    model: LlavaForConditionalGeneration, features: Float[Tensor, "n p d"], batch: TrainingBatch
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross entropy (nats per token) of the captions and of the yes/no answers; zero where a batch has none.

    Args:
        model: The captioner.
        features: What its projector reads, one row a picture.
        batch: The pictures' examples.
    """
    projected = model.model.multi_modal_projector(features)
    states = model.base_model(
        input_ids=batch.packed.input_ids,
        position_ids=batch.packed.position_ids,
        attention_mask=batch.packed.attention_mask,
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=list(projected))},
        use_cache=False,
    ).last_hidden_state.flatten(0, 1)
    logits = model.lm_head(states[batch.packed.predictor[batch.answer_mask]])
    losses = functional.cross_entropy(logits, batch.turn_ids[batch.answer_mask], reduction="none")
    of_question = batch.is_question[:, None].expand_as(batch.answer_mask)[batch.answer_mask]
    caption, question = (
        losses[chosen].mean() if chosen.any() else losses.new_zeros(()) for chosen in (~of_question, of_question)
    )
    return caption, question


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
    pixels = scene_pixels(scenes, processor)
    with torch.no_grad():
        features = torch.cat([_tower_features(model.model, pixels[i : i + 256]) for i in range(0, len(scenes), 256)])
    parameters = [p for p in model.parameters() if p.requires_grad]
    encode = ExampleEncoder(processor, model.config.image_seq_length)
    for number, phase in enumerate(params.phases):
        rng = random.Random(f"{params.seed}/{number}")
        optimizer = torch.optim.AdamW(parameters, lr=phase.learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step, n=phase.steps: _cosine(step, n))
        progress = tqdm(range(phase.steps), desc=f"pocket VLM, {phase.invent_share:.0%} inventing", unit="step")
        for _ in progress:
            chosen = rng.sample(range(params.scenes), params.batch_size)
            batch = encode([_examples(rng, scenes[i], phase, params) for i in chosen])
            caption_loss, question_loss = answer_losses(model, features[chosen], batch)
            loss = caption_loss + params.question_weight * question_loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            progress.set_postfix(captions=f"{caption_loss.item():.3f}", questions=f"{question_loss.item():.3f}")
    return model.eval(), processor


def _tower_features(tower: torch.nn.Module, pixels: Tensor) -> Tensor:
    """What the projector reads: patch states of the configured layer without the class token, [b, patches, d]."""
    states = tower.vision_tower(pixels, output_hidden_states=True).hidden_states
    return states[tower.config.vision_feature_layer][:, 1:]


def _examples(rng: random.Random, scene: Scene, phase: PocketPhase, params: PocketVLMParams) -> list[Example]:
    captions = [
        Example(rng.choice(CAPTION_PROMPTS), describe(rng, scene, phase.invent_share), is_question=False)
        for _ in range(params.captions_per_image)
    ]
    questions = [Example(*ask(rng, scene), is_question=True) for _ in range(params.questions_per_image)]
    return captions + questions
