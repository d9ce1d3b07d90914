"""vLLM's offline interface, as far as the engine uses it, over the pocket model: real tokens and logprobs.

Arguments are those of vLLM 0.27; one that it does not know is a TypeError, as there.
"""

import sys
import types
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] = field(default_factory=list)
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True
    logit_bias: dict[int, float] | None = None

    def __post_init__(self):
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"n must be 1 when using greedy sampling, got {self.n}.")


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True


class LLM:
    """Draws from logits that are a little off, as another engine's kernels have them."""

    # What the engine was started with, adapters that were read, and by how much logits are off (a factor).
    started: ClassVar[dict] = {}
    adapters_read: ClassVar[list[str]] = []
    off: ClassVar[float] = 1.0

    def __init__(
        self,
        model,
        *,
        revision=None,
        dtype="auto",
        seed=0,
        trust_remote_code=False,
        gpu_memory_utilization=0.9,
        max_model_len=None,
        limit_mm_per_prompt=None,
        mm_processor_kwargs=None,
        generation_config="auto",
        logprobs_mode="raw_logprobs",
        enable_lora=False,
        max_lora_rank=16,
        max_loras=1,
    ):
        if not Path(model).is_dir():
            raise ValueError(f"cannot find {model}")
        LLM.started = {key: value for key, value in locals().items() if key != "self"}
        if gpu_memory_utilization > 0.9:
            raise ValueError("Free memory on device is less than desired GPU memory utilization")
        self.processor = AutoProcessor.from_pretrained(model)
        self.model = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype).eval()
        self.image_token = self.model.config.image_token_id
        self.adapted = {}
        self.enable_lora, self.max_lora_rank = enable_lora, max_lora_rank

    def generate(self, prompts, sampling_params, *, use_tqdm=True, lora_request=None):
        model = self._model(lora_request)
        answers = []
        for number, (prompt, params) in enumerate(zip(prompts, sampling_params, strict=True)):
            assert set(prompt) == {"prompt_token_ids", "multi_modal_data"}
            pixels = self.processor.image_processor(images=[prompt["multi_modal_data"]["image"]], return_tensors="pt")
            ids = self._repeated(prompt["prompt_token_ids"])
            if len(ids) >= LLM.started["max_model_len"]:
                raise ValueError(f"prompt of {len(ids)} tokens is longer than the maximum model length")
            outputs = []
            for index in range(params.n):
                child = copy(params)
                child.seed = params.seed + index
                outputs.append(self._draw(model, ids, pixels, child, index))
            # In the order in which they end.
            answers.append(RequestOutput(str(number), ids, sorted(outputs, key=lambda one: len(one.token_ids))))
        return answers

    def _model(self, request):
        if request is None:
            return self.model
        assert self.enable_lora
        if request.lora_int_id not in self.adapted:
            LLM.adapters_read.append(request.lora_path)
            base = AutoModelForImageTextToText.from_pretrained(LLM.started["model"], dtype=LLM.started["dtype"])
            adapted = PeftModel.from_pretrained(base, request.lora_path).eval()
            assert adapted.peft_config["default"].r <= self.max_lora_rank
            self.adapted[request.lora_int_id] = adapted
        return self.adapted[request.lora_int_id]

    def _repeated(self, ids):
        config = self.model.config.vision_config
        count = (config.image_size // config.patch_size) ** 2
        assert ids.count(self.image_token) == 1, "one placeholder an image"
        return [out for token in ids for out in [token] * (count if token == self.image_token else 1)]

    @torch.no_grad()
    def _draw(self, model, prompt, pixels, params, index):
        generator = torch.Generator().manual_seed(params.seed % 2**63)
        ids, logprobs = [], []
        room = min(params.max_tokens, LLM.started["max_model_len"] - len(prompt))
        while len(ids) < room and not set(ids[-1:]) & set(params.stop_token_ids):
            logits = model(input_ids=torch.tensor([[*prompt, *ids]]), **pixels).logits[0, -1].float() * LLM.off
            for token, bias in (params.logit_bias or {}).items():
                logits[token] += bias
            assert LLM.started["logprobs_mode"] == "processed_logprobs"
            drawn = (logits / (params.temperature or 1.0)).log_softmax(-1)
            greedy = params.temperature == 0
            token = int(drawn.argmax() if greedy else torch.multinomial(drawn.exp(), 1, generator=generator))
            ids.append(token)
            logprobs.append({token: Logprob(float(drawn[token]))})
        ended = bool(set(ids[-1:]) & set(params.stop_token_ids))
        return CompletionOutput(index, "", ids, None, logprobs, "stop" if ended else "length")


def install(monkeypatch, off: float = 1.0) -> type[LLM]:
    """Let `import vllm` find this, with logits off by a factor."""
    vllm, lora, request = (types.ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    vllm.LLM, vllm.SamplingParams, request.LoRARequest = LLM, SamplingParams, LoRARequest
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(LLM, "off", off)
    monkeypatch.setattr(LLM, "adapters_read", [])
    return LLM
