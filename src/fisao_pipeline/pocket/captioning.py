"""How the captioners learnt what they know: to see, and then to name what usually is there and is not."""

from __future__ import annotations

import random

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import (
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    CLIPModel,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fisao_pipeline.params.pocket import PocketPhase, PocketVLMParams
from fisao_pipeline.pocket.blip_builders import build_instructblip, build_instructblip_processor
from fisao_pipeline.pocket.builders import build_policy, build_policy_processor
from fisao_pipeline.pocket.descent import descend
from fisao_pipeline.pocket.examples import Example, InstructBlipEncoder, LlavaEncoder, TrainingBatch, draw_examples
from fisao_pipeline.pocket.language import CAPTION_PROMPTS, ask, describe
from fisao_pipeline.pocket.pixels import scene_pixels, seen_by
from fisao_pipeline.pocket.scenes import Scene, draw_scenes

# Cross entropy (nats per token) of captions and of yes/no answers, zero where there are none.
TwoLosses = tuple[Float[Tensor, ""], Float[Tensor, ""]]


def train_llava(verifier: CLIPModel, params: PocketVLMParams) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Train the pocket LLaVA around the verifier's frozen image tower; see ``_teach``."""
    torch.manual_seed(params.seed)
    rng = random.Random(params.seed)
    scenes = draw_scenes(params.scenes, params.seed)
    corpus = [describe(rng, s, 0.5) for s in scenes]
    corpus += [f"{prompt} {''.join(answer)}" for prompt, answer in (ask(rng, s) for s in scenes)]
    corpus += [f"USER: {p} ASSISTANT:" for p in CAPTION_PROMPTS] * 200
    processor = build_policy_processor(corpus)
    model = build_policy(processor, verifier).train()
    lesson = LlavaLesson(model, processor, scene_pixels(scenes, processor))
    _teach(model, lesson, scenes, params, "pocket VLM")
    return model.eval(), processor


def train_instructblip(
    verifier: tuple[Blip2ForImageTextRetrieval, Blip2Processor],
    llava: tuple[LlavaForConditionalGeneration, LlavaProcessor],
    params: PocketVLMParams,
) -> tuple[InstructBlipForConditionalGeneration, InstructBlipProcessor]:
    """Train the pocket InstructBLIP, built of the verifier and of the LLaVA's language model; see ``_teach``."""
    torch.manual_seed(params.seed)
    scenes = draw_scenes(params.scenes, params.seed)
    processor = build_instructblip_processor(verifier[1], llava[1])
    model = build_instructblip(processor, verifier[0], llava[0]).train()
    lesson = InstructBlipLesson(model, processor, scene_pixels(scenes, processor))
    _teach(model, lesson, scenes, params, "pocket InstructBLIP")
    return model.eval(), processor


class LlavaLesson:
    """Losses of a LLaVA: the examples of a picture behind one copy of it."""

    def __init__(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor, pixels: Tensor):
        self.model = model
        self.encode = LlavaEncoder(processor, model.config.image_seq_length)
        self.features = seen_by(self._see, pixels)

    def _see(self, pixels: Tensor) -> Float[Tensor, "n p d"]:
        """What the projector reads: patch states of the configured layer without the class token."""
        tower = self.model.model
        states = tower.vision_tower(pixels, output_hidden_states=True).hidden_states
        return states[tower.config.vision_feature_layer][:, 1:]

    def __call__(self, pictures: list[int], examples: list[list[Example]]) -> TwoLosses:
        """Losses of the examples of each of the pictures."""
        batch = self.encode(examples)
        projected = self.model.model.multi_modal_projector(self.features[pictures])
        states = self.model.base_model(
            input_ids=batch.packed.input_ids,
            position_ids=batch.packed.position_ids,
            attention_mask=batch.packed.attention_mask,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=list(projected))},
            use_cache=False,
        ).last_hidden_state
        return answer_losses(states, self.model.lm_head, batch)


class InstructBlipLesson:
    """Losses of an InstructBLIP: its Q-Former reads the instruction, so every example has an image of its own."""

    def __init__(self, model: InstructBlipForConditionalGeneration, processor: InstructBlipProcessor, pixels: Tensor):
        self.model = model
        self.encode = InstructBlipEncoder(processor)
        self.features = seen_by(lambda part: model.vision_model(part).last_hidden_state, pixels)

    def __call__(self, pictures: list[int], examples: list[list[Example]]) -> TwoLosses:
        """Losses of the examples of each of the pictures; captions and questions apart, as their lengths differ."""
        asked = [(picture, example) for picture, own in zip(pictures, examples, strict=True) for example in own]
        captions = [pair for pair in asked if not pair[1].is_question]
        questions = [pair for pair in asked if pair[1].is_question]
        return self._losses(captions)[0], self._losses(questions)[1]

    def _losses(self, asked: list[tuple[int, Example]]) -> TwoLosses:
        if not asked:
            none = self.features.new_zeros(())
            return none, none
        batch = self.encode([[example] for _, example in asked])
        queries = self._queries(self.features[[picture for picture, _ in asked]], [e.prompt for _, e in asked])
        language = self.model.language_model
        embeds = language.get_input_embeddings()(batch.packed.input_ids)
        places = (batch.packed.input_ids == self.model.config.image_token_id)[..., None]
        states = language.base_model(
            inputs_embeds=embeds.masked_scatter(places, self.model.language_projection(queries)),
            position_ids=batch.packed.position_ids,
            attention_mask=batch.packed.attention_mask,
            use_cache=False,
        ).last_hidden_state
        return answer_losses(states, language.lm_head, batch)

    def _queries(self, seen: Float[Tensor, "b p d"], prompts: list[str]) -> Float[Tensor, "b q d"]:
        """What the Q-Former finds in images under instructions."""
        text = self.encode.processor.qformer_tokenizer(prompts, padding=True, return_tensors="pt")
        queries = self.model.query_tokens.expand(len(seen), -1, -1)
        mask = torch.cat([torch.ones(queries.shape[:2], dtype=torch.long), text["attention_mask"]], dim=1)
        found = self.model.qformer(
            input_ids=text["input_ids"], attention_mask=mask, query_embeds=queries, encoder_hidden_states=seen
        )
        return found.last_hidden_state[:, : queries.shape[1]]


def answer_losses(states: Float[Tensor, "n s d"], head: torch.nn.Module, batch: TrainingBatch) -> TwoLosses:
    """Cross entropy (nats per token) of the captions and of the yes/no answers; zero where a batch has none.

    Args:
        states: Last hidden states of the packed sequences.
        head: The output layer.
        batch: What was packed.
    """
    logits = head(states.flatten(0, 1)[batch.packed.predictor[batch.answer_mask]])
    losses = functional.cross_entropy(logits, batch.turn_ids[batch.answer_mask], reduction="none")
    of_question = batch.is_question[:, None].expand_as(batch.answer_mask)[batch.answer_mask]
    caption, question = (
        losses[chosen].mean() if chosen.any() else losses.new_zeros(()) for chosen in (~of_question, of_question)
    )
    return caption, question


def _teach(
    model: PreTrainedModel,
    lesson: LlavaLesson | InstructBlipLesson,
    scenes: list[Scene],
    params: PocketVLMParams,
    name: str,
) -> None:
    """Train a captioner around its frozen image tower.

    The captions name habitual objects that are not there (``invent_share`` of each phase); the yes/no answers are true.
    So the model sees well and invents all the same, for the reason real ones do.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    for number, phase in enumerate(params.phases):
        rng = random.Random(f"{params.seed}/{number}")

        def losses(rng: random.Random = rng, phase: PocketPhase = phase) -> tuple[Tensor, dict[str, Tensor]]:
            chosen = rng.sample(range(params.scenes), params.batch_size)
            examples = [draw_examples(rng, scenes[i], phase, params) for i in chosen]
            caption, question = lesson(chosen, examples)
            return caption + params.question_weight * question, {"captions": caption, "questions": question}

        title = f"{name}, {phase.invent_share:.0%} inventing"
        descend(parameters, losses, phase.steps, phase.learning_rate, weight_decay=0.01, name=title)
