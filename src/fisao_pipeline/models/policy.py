"""The policy: a vision-language model that samples completions and scores them, with its adapter or without."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedModel,
    ProcessorMixin,
)

from fisao_pipeline.method.logprobs import projected_token_logprobs
from fisao_pipeline.models.beam_search import search_completions
from fisao_pipeline.models.checkpointing import without_checkpointing
from fisao_pipeline.models.decoding import Completions, Decoding, draw_completions
from fisao_pipeline.models.loading import load_pretrained
from fisao_pipeline.models.lora import attach_lora, computing_as_backbone, language_tower_name
from fisao_pipeline.models.offsets import decode_with_offsets
from fisao_pipeline.models.packing import pack_completions, pack_count, share_out
from fisao_pipeline.models.prompts import ImageOpener, PromptBatch, PromptEncoder
from fisao_pipeline.models.source import BASE_MODEL_FILE, ModelSource, identity, is_folder, loaded_identity
from fisao_pipeline.models.value_head import ValueHead
from fisao_pipeline.params.lora import LoraParams

if TYPE_CHECKING:
    from fisao_pipeline.models.vllm_engine import VllmEngine

logger = logging.getLogger(__name__)


class Policy:
    """One vision-language model, optionally with a LoRA adapter on its language tower.

    The reference policy is this very model with the adapter switched off: no second copy of the weights.

    Attributes:
        engine: Draws completions in the policy's stead; None where it samples itself.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, processor: ProcessorMixin):
        self.model = model.eval()
        self.processor = processor
        self.backbone: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
        self.encode = PromptEncoder(self.backbone, processor)
        self.kind = self.encode.kind
        self.value_head: ValueHead | None = None
        self.engine: VllmEngine | None = None
        # `models.source.loaded_identity` of the backbone, where it is known.
        self.identity: str | None = None
        self._said_unpacked = False

    @classmethod
    def load(cls, source: ModelSource, lora: LoraParams | None = None, adapter: str | Path | None = None) -> Policy:
        """Load a backbone, with a fresh adapter (``lora``) or a trained one (``adapter``), or with none.

        Raises:
            ValueError: If the model is of no supported kind or wants code of its own, or the adapter was trained for
                another base model.
        """
        model, processor = load_pretrained(AutoModelForImageTextToText, source)
        base = identity(source)
        if adapter is not None:
            check_adapter_fits(Path(adapter), model, base)
            model = PeftModel.from_pretrained(model, str(adapter))
        elif lora is not None:
            model = attach_lora(model, lora)
        policy = cls(model, processor)
        policy.identity = loaded_identity(source)
        if lora is not None and adapter is None:
            # Where PEFT gets the base model from the hub by itself; None for a local folder.
            policy.model.peft_config["default"].revision = None if is_folder(source) else source.revision
        return policy

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.device

    @property
    def tokenizer(self):
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def suppressed_ids(self) -> Int[Tensor, " s"]:
        """Tokens never sampled and never scored: the image token, for a sampled one breaks the forward pass."""
        return self.kind.suppressed_ids

    @property
    def eos_ids(self) -> Int[Tensor, " e"]:
        """Tokens that end a completion."""
        return self.kind.eos_ids

    @property
    def shares_prompts(self) -> bool:
        """Whether completions may be packed behind one copy of their prompt; see ``BackboneKind.packs``."""
        return self.kind.packs

    def adapter_parameters(self) -> list[torch.nn.Parameter]:
        """The adapter's parameters."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        """The adapter's parameters, and the value head's where there is one."""
        return self.adapter_parameters() + (list(self.value_head.parameters()) if self.value_head is not None else [])

    def trainable_state(self) -> dict[str, Tensor]:
        """The weights that training moves, by name: the adapter's and the value head's. Not copies."""
        state = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        head = self.value_head.state_dict() if self.value_head is not None else {}
        return state | {f"value_head.{name}": tensor for name, tensor in head.items()}

    def trainable_digest(self) -> str:
        """Tells these weights from all others that training may come to."""
        content = hashlib.sha256()
        for name, tensor in sorted(self.trainable_state().items()):
            content.update(name.encode())
            content.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return content.hexdigest()[:16]

    @torch.no_grad()
    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Give the weights that training moves the values that ``trainable_state`` gave.

        Raises:
            ValueError: If names or shapes are not this policy's.
        """
        own = self.trainable_state()
        if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in state.items()}:
            differing = sorted(set(own) ^ set(state)) or [n for n in own if own[n].shape != state[n].shape]
            raise ValueError(f"these are not the weights of this policy's adapter and value head: {differing[:3]}")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def add_value_head(self, width: int | None = None) -> None:
        """Give the policy a value function that starts at zero, with a hidden layer of ``width`` or linear."""
        hidden = self.backbone.config.get_text_config().hidden_size
        self.value_head = ValueHead(hidden, width).to(self.device)

    @property
    def samples_itself(self) -> bool:
        """Whether logprobs of drawn completions are those of ``score``, but for rounding."""
        return self.engine is None

    @property
    def sampler(self) -> str:
        """What draws completions, by its name in the parameters: `response_sampling.sampler`."""
        return "in_process" if self.samples_itself else "vllm"

    def sample_prompts(
        self,
        prompts: Sequence[str],
        image_ids: Sequence[str],
        open_image: ImageOpener,
        decoding: Decoding,
        completions_per_prompt: int,
        seed: int,
        reference: bool = False,
    ) -> Completions:
        """Draw completions of prompts about images, those of a prompt adjacent, by the engine or in this process.

        Args:
            prompts: Texts without image token.
            image_ids: One an image.
            open_image: Gives the RGB image of an id.
            decoding: Temperature and longest completion.
            completions_per_prompt: K.
            seed: Of all draws; sets torch's global random state where the policy samples itself.
            reference: Whether to sample from the reference policy.

        Raises:
            ValueError: As ``sample``, or what the engine cannot do.
        """
        asked = (prompts, image_ids, open_image)
        if self.engine is not None:
            return self.engine.sample(self, *asked, decoding, completions_per_prompt, seed, reference)
        torch.manual_seed(seed)
        return self.sample(self.encode(*asked), decoding, completions_per_prompt, reference)

    @torch.no_grad()
    def sample(
        self, batch: PromptBatch, decoding: Decoding, completions_per_prompt: int = 1, reference: bool = False
    ) -> Completions:
        """Draw completions, those of a prompt adjacent, with torch's global random state; see ``models.decoding``.

        Raises:
            ValueError: More than one completion of a prompt is asked of beam search, which finds one.
        """
        if decoding.num_beams > 1 and completions_per_prompt > 1:
            raise ValueError(f"beam search finds one completion of a prompt, not {completions_per_prompt}")
        with self._adapter(off=reference), without_checkpointing(self.backbone):
            if decoding.num_beams > 1:
                return search_completions(self.kind, self.kind.inputs(batch), decoding)
            return draw_completions(self.kind, self.kind.inputs(batch), decoding, completions_per_prompt)

    def score(
        self,
        batch: PromptBatch,
        completion_ids: Int[Tensor, "b t"],
        completion_mask: Bool[Tensor, "b t"],
        temperature: float,
        reference: bool = False,
        prompt_of_row: Sequence[int] | None = None,
    ) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
        """Log-probabilities (nats) and values of given completions, both zero off the mask.

        Only hidden states of completion tokens are projected to the vocabulary. Values are zero without a value head
        and for the reference.

        Args:
            batch: Prompts.
            completion_ids: Completions, padded on the right.
            completion_mask: True on tokens.
            temperature: The one they were sampled with.
            reference: Whether to score under the reference policy.
            prompt_of_row: For each completion the row of its prompt, whose computation they share; None means one
                prompt each, in order.
        """
        inputs, predictor = self._scoring_inputs(batch, completion_ids, completion_mask, prompt_of_row)
        with self._adapter(off=reference):
            states = self.kind.hidden_states(inputs)
        # Completions of one prompt share the state that ends it. Here what flows back is added in a fixed order; with
        # `states[...]` threads race for it on the CPU, and no two runs are the same.
        hidden = states.flatten(0, 1).index_select(0, predictor[completion_mask])
        head = self.backbone.get_output_embeddings()
        counted = projected_token_logprobs(
            hidden,
            head.weight,
            getattr(head, "bias", None),
            completion_ids[completion_mask],
            temperature,
            self.suppressed_ids,
            logit_cap=self.kind.logit_cap,
        )
        logprobs = torch.zeros(completion_mask.shape, device=self.device).masked_scatter(completion_mask, counted)
        values = torch.zeros_like(logprobs)
        if self.value_head is not None and not reference:
            values = values.masked_scatter(completion_mask, self.value_head(hidden))
        return logprobs, values

    def _scoring_inputs(
        self, batch: PromptBatch, ids: Tensor, mask: Tensor, prompt_of_row: Sequence[int] | None
    ) -> tuple[dict, Int[Tensor, "b t"]]:
        """Arguments of the forward pass, and for each completion token the flat place of the state that predicts it."""
        if prompt_of_row is not None and not self.shares_prompts:
            self._say_unpacked(prompt_of_row)
            batch, prompt_of_row = batch.rows(prompt_of_row), None
        if prompt_of_row is not None:
            batch, prompt_of_row = self._shared_out(batch, mask, prompt_of_row)
            # 0 is a token like any other, unless it stands for an image.
            fill_id = 0 if self.kind.image_token_id else self.kind.pad_id
            packed = pack_completions(batch.input_ids, batch.attention_mask, ids, mask, prompt_of_row, fill_id)
            inputs = self.kind.inputs(batch)
            inputs["input_ids"] = packed.input_ids
            inputs["position_ids"] = packed.position_ids
            inputs["attention_mask"] = packed.attention_mask
            return inputs, packed.predictor
        inputs = self.kind.inputs(batch, ids, mask)
        rows, steps = torch.arange(len(ids), device=ids.device), torch.arange(ids.shape[1], device=ids.device)
        # The state at position p predicts the token at p + 1.
        return inputs, rows[:, None] * inputs["input_ids"].shape[1] + batch.input_ids.shape[1] - 1 + steps

    def _say_unpacked(self, prompt_of_row: Sequence[int]) -> None:
        # Where each has a prompt of its own anyhow, nothing is lost.
        if not self._said_unpacked and len(set(prompt_of_row)) < len(prompt_of_row):
            reason = self.kind.unpacked_reason(self.backbone)
            logger.info("Completions are scored each behind its own prompt: %s.", reason)
            self._said_unpacked = True

    def _shared_out(
        self, batch: PromptBatch, mask: Tensor, prompt_of_row: Sequence[int]
    ) -> tuple[PromptBatch, Sequence[int]]:
        """The batch with each prompt as often as there are packs behind it, and the pack of each completion."""
        lengths = mask.sum(dim=1).tolist()
        groups: dict[int, list[int]] = {}
        for prompt, length in zip(prompt_of_row, lengths, strict=True):
            groups.setdefault(prompt, []).append(length)
        count = pack_count(batch.input_ids.shape[1], list(groups.values()), self._linear_tokens)
        if count == 1:
            return batch, prompt_of_row
        prompts, packs = share_out(prompt_of_row, lengths, count)
        return batch.rows(prompts), packs

    @cached_property
    def _linear_tokens(self) -> float:
        """What the language tower's linear layers do for a token, in pairs of tokens in its attention."""
        config = self.backbone.config.get_text_config()
        tower = self.backbone.get_submodule(language_tower_name(self.backbone))
        linear = {
            name: m for name, m in tower.named_modules() if isinstance(m, torch.nn.Linear) and "lora_" not in name
        }
        width = config.num_attention_heads * (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        weights = sum(module.in_features * module.out_features for module in linear.values())
        return weights / (2 * config.num_hidden_layers * width)

    def decode(self, ids: Tensor, mask: Tensor) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """Texts of completions and, per token, its character span in that text (end exclusive)."""
        texts, offsets = [], []
        for row, counts in zip(ids.tolist(), mask.tolist(), strict=True):
            text, spans = decode_with_offsets(self.tokenizer, [i for i, c in zip(row, counts, strict=True) if c])
            texts.append(text)
            offsets.append(spans)
        return texts, offsets

    def adapter_state(self) -> tuple[dict, dict[str, Tensor]]:
        """A copy of the adapter in PEFT's own format, configuration and weights, on the CPU.

        Raises:
            TypeError: If the policy has no adapter.
        """
        if not isinstance(self.model, PeftModel):
            raise TypeError("this policy has no adapter")
        config = self.model.peft_config["default"].to_dict()
        config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
        config["inference_mode"] = True
        # Cloned: on the CPU the tensors would be the live ones, and training on would change an adapter that was kept.
        state = {k: v.detach().cpu().clone() for k, v in get_peft_model_state_dict(self.model).items()}
        return config, state

    @contextmanager
    def _adapter(self, off: bool) -> Iterator[None]:
        if not isinstance(self.model, PeftModel):
            yield
            return
        # The reference computes as the policy does, or a fresh adapter would not be its reference.
        with computing_as_backbone(self.model), self.model.disable_adapter() if off else nullcontext():
            yield


def check_adapter_fits(adapter: Path, model: PreTrainedModel, base: str | None = None) -> None:
    """Refuse an adapter that was trained for another model than the one it is put on.

    Args:
        adapter: PEFT folder.
        model: The base model.
        base: Its ``models.source.identity``; None compares names and shapes of weights only, as does an adapter
            that was made elsewhere and names no base of ours.

    Raises:
        ValueError: If identities, names or shapes differ; the message names both models.
    """
    config = json.loads((adapter / "adapter_config.json").read_text())
    trained_on = _trained_on(adapter, config)
    if base is not None and trained_on is not None and trained_on != base:
        raise ValueError(
            f"the adapter {adapter} was trained for {config.get('base_model_name_or_path')!r} ({trained_on}) and not "
            f"for {model.name_or_path!r} ({base}): train one for this model with `kedro run --pipelines=train` and the "
            "same --env and --params, or load the other model"
        )
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    # Weights of 4 bits are kept in a shape of their own.
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    shapes |= {f"{name}.weight": (module.out_features, module.in_features) for name, module in linear}
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as weights:
        for key in weights.keys():
            module = key.removeprefix("base_model.model.")
            target, _, factor = module.rpartition(".lora_")
            expected = shapes.get(f"{target}.weight")
            got = weights.get_slice(key).get_shape()
            side = 1 if factor.startswith("A") else 0
            if expected is None or expected[side] != got[side]:
                raise ValueError(
                    f"the adapter {adapter} was trained for {config.get('base_model_name_or_path')!r} and does not fit "
                    f"{model.name_or_path!r}: {target} is {expected}, the adapter's {key} is {tuple(got)}"
                )


def _trained_on(adapter: Path, config: dict) -> str | None:
    """Identity of the adapter's base model, None where the folder does not say."""
    file = adapter / BASE_MODEL_FILE
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))["identity"]
    # Adapters of before kept it in PEFT's `revision`, which elsewhere is a hub's branch, tag or commit.
    revision = config.get("revision") or ""
    return revision if revision.startswith("sha256:") or "@" in revision else None
