"""Sampling with vLLM instead of in process: the policy's adapter goes to it as a folder, tokens and logprobs come back.

Written for vLLM 0.22 to 0.30 (its offline API: ``LLM``, ``SamplingParams``, ``LoRARequest``); 0.31 wants an older
transformers than this package. vLLM computes with kernels of its own, so its logprobs are not the trainer's; see
``method.importance``.
"""

from __future__ import annotations

import gc
import json
import random
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from fisao_pipeline.models.decoding import Completions, Decoding
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.models.source import ModelSource, find_model

if TYPE_CHECKING:
    from fisao_pipeline.models.policy import Policy

IN_PROCESS = "set response_sampling.sampler to `in_process`"
# Kinds of model whose prompts name the image by one token, which vLLM and the processor repeat alike.
MODEL_TYPES = ("llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
# What `max_lora_rank` may be.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# What its kernels for adapters compute in.
_LORA_TYPES = (torch.bfloat16, torch.float16)
_HOTTEST = 2.0
# Added to a logit, it leaves no probability that a float32 can hold; vLLM takes no infinity.
_NEVER = -100.0


def check_engine(policy: Policy, source: ModelSource, temperature: float) -> None:
    """Refuse what vLLM cannot sample from, before it is started.

    Raises:
        ValueError: If the policy is on no CUDA device, in 4 bits, of another kind of model or has an adapter on
            weights of 32 bits, or the temperature is above vLLM's limit; the message says what to do.
    """
    kind = policy.backbone.config.model_type
    if policy.device.type != "cuda":
        raise ValueError(f"sampler `vllm` needs a CUDA device and the policy is on {policy.device}: {IN_PROCESS}")
    if source.quantization is not None:
        raise ValueError(
            f"sampler `vllm` cannot load the policy in {source.quantization} as the trainer does: take `quantization` "
            f"out of policy_backbone, or {IN_PROCESS}"
        )
    if kind not in MODEL_TYPES:
        raise ValueError(
            f"sampler `vllm` is written for {', '.join(MODEL_TYPES)}, the policy is a {kind}: {IN_PROCESS}"
        )
    if policy.adapter_parameters() and policy.backbone.dtype not in _LORA_TYPES:
        dtype = str(policy.backbone.dtype).removeprefix("torch.")
        raise ValueError(
            f"sampler `vllm` takes an adapter on weights in bfloat16 or float16 only, the policy is in {dtype}: set "
            f"`dtype: bfloat16` on policy_backbone, or {IN_PROCESS}"
        )
    if temperature > _HOTTEST:
        raise ValueError(
            f"sampler `vllm` draws at temperatures up to {_HOTTEST:g}, response_sampling.temperature is "
            f"{temperature:g}: lower it, or {IN_PROCESS}"
        )


class VllmEngine:
    """One vLLM engine beside the policy, on the same device."""

    def __init__(self, source: ModelSource, memory: float, rank: int | None, longest: int):
        """Start vLLM; it reads the weights once more, from this machine: the policy was loaded from there.

        Args:
            source: The policy's backbone.
            memory: Share of the device's memory that vLLM may take, weights and cache together.
            rank: Of the adapter; None where there is none.
            longest: Tokens of the longest prompt and answer together. Not more than is needed: vLLM starts only where
                its cache holds one sequence as long.

        Raises:
            ImportError: If vLLM is not installed.
            ModelNotFoundError: If the model is not on this machine.
            ValueError: If vLLM cannot run the model, or its adapter.
        """
        try:
            import vllm  # noqa: PLC0415 - optional, and slow to import
            from vllm.lora.request import LoRARequest  # noqa: PLC0415
        except ImportError as error:
            raise ImportError(
                "response_sampling.sampler is `vllm`, and vLLM is not installed or does not load "
                f"({error}): `pip install 'fisao-pipeline[vllm]'`, or {IN_PROCESS}"
            ) from error
        self._params, self._request = vllm.SamplingParams, LoRARequest
        folder = find_model(source.path_or_id, source.revision)
        lora: dict[str, Any] = {}
        if rank is not None:
            allowed = next((limit for limit in _RANKS if rank <= limit), None)
            if allowed is None:
                raise ValueError(f"vLLM takes adapters up to rank {_RANKS[-1]}, lora.rank is {rank}: {IN_PROCESS}")
            lora = {"enable_lora": True, "max_lora_rank": allowed, "max_loras": 1}
        try:
            self._llm = vllm.LLM(
                # Not the hub's id, for which vLLM would ask the hub.
                model=str(folder),
                dtype=source.dtype,
                trust_remote_code=False,
                gpu_memory_utilization=memory,
                max_model_len=longest,
                limit_mm_per_prompt={"image": 1},
                mm_processor_kwargs=dict(source.options.get("processor", {})) or None,
                generation_config="vllm",
                # Of the distribution that was drawn from: at the temperature, without the suppressed tokens.
                logprobs_mode="processed_logprobs",
                seed=0,
                **lora,
            )
        except (ValueError, NotImplementedError, RuntimeError) as error:
            what = f"{source.path_or_id!r}{' with an adapter' if lora else ''}"
            raise ValueError(
                f"vLLM cannot run {what}: {error}. Change response_sampling.engine_memory if it speaks of memory, or "
                f"{IN_PROCESS}"
            ) from error
        self._folder = TemporaryDirectory(prefix="adapters-")
        self._adapters = 0
        self._digest: str | None = None

    def sample(
        self,
        policy: Policy,
        prompts: Sequence[str],
        image_ids: Sequence[str],
        open_image: ImageOpener,
        decoding: Decoding,
        completions_per_prompt: int,
        seed: int,
        reference: bool,
    ) -> Completions:
        """As ``Policy.sample_prompts``; logprobs are those that vLLM drew with.

        Raises:
            ValueError: If beams or several greedy completions are asked for, or vLLM reads a prompt otherwise than the
                trainer, draws a suppressed token, or ends a completion without its last token.
        """
        if decoding.num_beams > 1 or (decoding.temperature == 0 and completions_per_prompt > 1):
            raise ValueError(
                f"sampler `vllm` draws; it does no beam search and no copies of a greedy answer: {IN_PROCESS}"
            )
        batch = policy.encode(prompts, image_ids, open_image)
        rows = [row[counts].tolist() for row, counts in zip(batch.input_ids, batch.attention_mask, strict=True)]
        image = policy.kind.image_token_id
        asked = [
            {"prompt_token_ids": _once(row, image), "multi_modal_data": {"image": open_image(image_id)}}
            for row, image_id in zip(rows, image_ids, strict=True)
        ]
        how = [self._how(policy, decoding, completions_per_prompt, seed, number) for number in range(len(asked))]
        adapter = None if reference else self._adapter(policy)
        answers = self._llm.generate(asked, sampling_params=how, lora_request=adapter, use_tqdm=False)
        for row, answer, image_id in zip(rows, answers, image_ids, strict=True):
            if list(answer.prompt_token_ids) != row:
                raise ValueError(
                    f"vLLM reads the prompt about {image_id!r} as {len(answer.prompt_token_ids)} tokens, which are not "
                    f"the trainer's {len(row)}: {IN_PROCESS}"
                )
        drawn = [one for answer in answers for one in sorted(answer.outputs, key=lambda one: one.index)]
        return _completions(policy, drawn)

    def close(self) -> None:
        """Give the device's memory back."""
        self._llm = None
        self._folder.cleanup()
        # vLLM stops its own process when nobody holds the engine.
        gc.collect()

    def _how(self, policy: Policy, decoding: Decoding, copies: int, seed: int, number: int) -> Any:
        return self._params(
            n=copies,
            temperature=decoding.temperature,
            max_tokens=decoding.max_new_tokens,
            # vLLM draws the copies of a prompt with seed, seed + 1, …: seeds of prompts must lie apart.
            seed=random.Random(f"{seed}/{number}").getrandbits(48),
            logprobs=0,
            logit_bias={token: _NEVER for token in policy.suppressed_ids.tolist()},
            stop_token_ids=policy.eos_ids.tolist(),
            detokenize=False,
        )

    def _adapter(self, policy: Policy) -> Any:
        """A request for the policy's adapter as it is now, written anew where it has moved; None without one."""
        if not policy.adapter_parameters():
            return None
        digest = policy.trainable_digest()
        if digest != self._digest:
            # Never asked for again: a state that comes back gets another number.
            shutil.rmtree(self._path(), ignore_errors=True)
            self._adapters += 1
            config, state = policy.adapter_state()
            folder = self._path()
            folder.mkdir()
            (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
            save_file(
                {name: tensor.contiguous() for name, tensor in state.items()}, folder / "adapter_model.safetensors"
            )
            self._digest = digest
        # vLLM knows adapters by number: each state of ours has its own.
        return self._request(f"policy-{self._adapters}", self._adapters, str(self._path()))

    def _path(self) -> Path:
        return Path(self._folder.name) / f"policy-{self._adapters}"


def _once(ids: list[int], image_token: int | None) -> list[int]:
    """The tokens with one image token where they have a run of them: vLLM repeats it itself."""
    runs = ((token, list(run)) for token, run in groupby(ids))
    return [token for value, run in runs for token in (run[:1] if value == image_token else run)]


def _completions(policy: Policy, drawn: list[Any]) -> Completions:
    ends, suppressed = set(policy.eos_ids.tolist()), set(policy.suppressed_ids.tolist())
    width = max(len(one.token_ids) for one in drawn)
    ids = torch.full((len(drawn), width), policy.kind.pad_id)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    logprobs = torch.zeros(ids.shape)
    for number, one in enumerate(drawn):
        tokens = list(one.token_ids)
        if suppressed.intersection(tokens):
            raise ValueError(f"vLLM drew a token that stands for an image: {IN_PROCESS}")
        if one.finish_reason == "stop" and tokens[-1] not in ends:
            raise ValueError(
                f"vLLM leaves out the token that ended a completion: take another version, or {IN_PROCESS}"
            )
        ids[number, : len(tokens)] = torch.tensor(tokens)
        mask[number, : len(tokens)] = True
        found = [at[token].logprob for at, token in zip(one.logprobs, tokens, strict=True)]
        logprobs[number, : len(tokens)] = torch.tensor(found)
    return Completions(*(tensor.to(policy.device) for tensor in (ids, mask, logprobs)))
