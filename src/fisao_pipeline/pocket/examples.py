"""What the captioners learn from: turns about pictures, as tokens in the very form in which a policy will be asked."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor
from transformers import InstructBlipProcessor, LlavaProcessor, ProcessorMixin

from fisao_pipeline.models.packing import Packed, pack_completions
from fisao_pipeline.params.pocket import PocketPhase, PocketVLMParams
from fisao_pipeline.pocket.language import CAPTION_PROMPTS, ask, describe
from fisao_pipeline.pocket.pixels import IMAGE_PIXELS
from fisao_pipeline.pocket.scenes import Scene
from fisao_pipeline.pocket.tokenizers import IMAGE_TOKEN


@dataclass(frozen=True)
class Example:
    """One turn about a picture: what is asked, what is to be answered, and whether it is a yes/no question."""

    prompt: str
    answer: str
    is_question: bool


def draw_examples(rng: random.Random, scene: Scene, phase: PocketPhase, params: PocketVLMParams) -> list[Example]:
    """Captions of a scene, some of which invent, and yes/no questions with true answers."""
    captions = [
        Example(rng.choice(CAPTION_PROMPTS), describe(rng, scene, phase.invent_share), is_question=False)
        for _ in range(params.captions_per_image)
    ]
    questions = [Example(*ask(rng, scene), is_question=True) for _ in range(params.questions_per_image)]
    return captions + questions


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


class ExampleEncoder(ABC):
    """Examples as tokens; a subclass knows its model's prompt format."""

    def __init__(self, processor: ProcessorMixin):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self._image_id = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self._heads: dict[str, list[int]] = {}

    @abstractmethod
    def _read(self, prompt: str) -> list[int]:
        """Tokens of a conversation about one picture up to where the answer starts."""

    def head_ids(self, prompt: str) -> list[int]:
        """Tokens of a conversation about one picture up to where the answer starts; read once a prompt."""
        if prompt not in self._heads:
            self._heads[prompt] = self._read(prompt)
        return self._heads[prompt]

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer and its end token."""
        return [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]

    def __call__(self, examples: list[list[Example]]) -> TrainingBatch:
        """Encode the examples of each picture."""
        prefix = self.head_ids("")
        width = len(prefix) - prefix[::-1].index(self._image_id)
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


class LlavaEncoder(ExampleEncoder):
    """LLaVA's conversation format, an image token for each of the picture's patches."""

    processor: LlavaProcessor

    def __init__(self, processor: LlavaProcessor, image_tokens: int):
        super().__init__(processor)
        self.image_tokens = image_tokens

    def _read(self, prompt: str) -> list[int]:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        turn = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(turn, add_generation_prompt=True)
        text = text.replace(IMAGE_TOKEN, IMAGE_TOKEN * self.image_tokens)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


class InstructBlipEncoder(ExampleEncoder):
    """InstructBLIP's format: the bare instruction behind an image token for each query of the Q-Former."""

    processor: InstructBlipProcessor

    def __init__(self, processor: InstructBlipProcessor):
        super().__init__(processor)
        self._blank = Image.new("RGB", (IMAGE_PIXELS, IMAGE_PIXELS))

    def _read(self, prompt: str) -> list[int]:
        return self.processor(text=prompt, images=self._blank)["input_ids"][0]
