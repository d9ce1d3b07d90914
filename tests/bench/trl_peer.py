"""TRL's GRPOTrainer on the same LLaVA, pictures, prompts and adapter: what users would pick instead."""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pandas as pd
from tests.bench.side_by_side import CPU_SECONDS, attempt
from tests.pocket_models import PocketWorld
from transformers import AutoModelForImageTextToText, AutoProcessor

from fisao_pipeline.models.lora import lora_target_pattern
from fisao_pipeline.params.lora import LoraParams

VERSION = "1.16"


def trl_missing() -> str | None:
    """Why TRL cannot be run here; None where it can."""
    try:
        found = metadata.version("trl")
        import trl  # noqa: F401
    except ImportError as error:
        return f"TRL is not there ({error}): `make bench` installs it"
    except Exception as error:  # of whatever it imports
        return f"TRL cannot be imported ({type(error).__name__}: {error})"
    return None if found.startswith(f"{VERSION}.") else f"TRL {found} is there and not {VERSION}"


def trl_or_why(make: Callable[[], "TrlGrpo"]) -> tuple["TrlGrpo | None", str | None]:
    """TRL's trainer, or why there is none: it is missing, another version, or refuses what it is given."""
    missing = trl_missing()
    return (None, missing) if missing else attempt(make)


@dataclass(frozen=True)
class Sizes:
    """How a round goes, in responses; as ours is measured."""

    completions: int
    max_new_tokens: int
    batch: int
    micro_batch: int
    epochs: int
    kl_coef: float = 0.05
    learning_rate: float = 1e-3


class TrlGrpo:
    """One GRPOTrainer whose rounds can be repeated; LoRA, no gradient checkpointing, float32 on the CPU."""

    def __init__(
        self,
        world: PocketWorld,
        prompts: pd.DataFrame,
        sizes: Sizes,
        lora: LoraParams,
        reward: Callable[[Sequence[str], Sequence[str]], list[float]],
    ):
        """Load the model and wrap it.

        Args:
            world: Models and pictures.
            prompts: Of one round.
            sizes: Of one round.
            lora: The adapter.
            reward: Takes image ids and texts of responses.
        """
        import trl.trainer.utils
        from peft import LoraConfig
        from transformers import TrainerCallback
        from trl import GRPOConfig, GRPOTrainer

        from datasets import Dataset

        class Trainer(GRPOTrainer):
            """Knows how long it was generating and scoring, so that what is left are its steps."""

            before_steps = 0.0

            def _generate_and_score_completions(self, inputs: Any) -> Any:
                started = CPU_SECONDS()
                made = super()._generate_and_score_completions(inputs)
                self.before_steps = CPU_SECONDS() - started
                return made

        class Clock(TrainerCallback):
            """CPU seconds of a round without what `train` does once a run: preparing, and clearing memory before."""

            seconds = began = 0.0

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.began = CPU_SECONDS()

            def on_train_end(self, *_: Any, **__: Any) -> None:
                self.seconds = CPU_SECONDS() - self.began

        folder = world.policy_source.path_or_id
        self.processor = AutoProcessor.from_pretrained(folder)
        model = AutoModelForImageTextToText.from_pretrained(folder)
        # TRL makes room for logits of 32,768 words however few there are: hundreds of MiB that a real vocabulary fills
        # and this one leaves empty.
        trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE = model.config.get_text_config().vocab_size
        rows = [
            {
                "prompt": [{"role": "user", "content": row.prompt}],
                "image": world.open_image(row.image_id),
                "image_id": row.image_id,
            }
            for row in prompts.itertuples(index=False)
        ]
        responses = len(rows) * sizes.completions
        self.steps = responses // sizes.batch * sizes.epochs

        def summed_rewards(completions: list[Any], image_id: list[str], **_: Any) -> list[float]:
            return reward(image_id, [completion[0]["content"] for completion in completions])

        config = GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=sizes.micro_batch,
            gradient_accumulation_steps=sizes.batch // sizes.micro_batch,
            generation_batch_size=responses,
            num_generations=sizes.completions,
            num_iterations=sizes.epochs,
            max_completion_length=sizes.max_new_tokens,
            max_steps=self.steps,
            beta=sizes.kl_coef,
            learning_rate=sizes.learning_rate,
            temperature=1.0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            shuffle_dataset=False,
            dataloader_pin_memory=False,
            report_to=[],
            logging_steps=10_000,
            save_strategy="no",
            disable_tqdm=True,
            seed=0,
        )
        adapter = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules=lora_target_pattern(model, lora.targets),
            task_type="CAUSAL_LM",
        )
        self.trainer = Trainer(
            model=model,
            reward_funcs=summed_rewards,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=self.processor,
            peft_config=adapter,
        )
        self.clock = Clock()
        self.trainer.add_callback(self.clock)
        self.conversations = [
            [{"role": "user", "content": [{"type": "image", "image": row["image"]}, *text(row["prompt"])]}]
            for row in rows
            for _ in range(sizes.completions)
        ]

    def generate(self) -> list[list[int]]:
        """Draw one round's completions by the trainer's own generation, text included."""
        self.trainer.model.train()
        return self.trainer._generate(self.conversations)[1]

    def learn_from(self, completion_ids: list[list[int]]) -> float:
        """One round on given completions: logprobs before, reference, and all steps; nothing is generated.

        Returns:
            CPU seconds of all that; `steps_from` leaves the logprobs out.
        """
        # Read before, as a round that generates has read them.
        prompt_ids = self.trainer._tokenize_prompts(self.conversations)[0]
        given = {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}
        self.trainer.rollout_func = lambda prompts, trainer: dict(given)
        return self.round()

    def steps_from(self, completion_ids: list[list[int]]) -> float:
        """The same; returns CPU seconds of the steps alone."""
        return self.learn_from(completion_ids) - self.trainer.before_steps

    def round(self) -> float:
        """One round: generate, reward, score, and all steps; returns its CPU seconds."""
        with open("/dev/null", "w") as nowhere, contextlib.redirect_stdout(nowhere):
            self.trainer.train()
        return self.clock.seconds


def text(prompt: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"type": "text", "text": prompt[0]["content"]}]
