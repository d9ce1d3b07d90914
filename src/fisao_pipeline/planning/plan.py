"""The plan of a run as data: what is missing, what a model needs, what fits each card and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fisao_pipeline.models.shape import PolicyShape, VerifierShape
from fisao_pipeline.params.base import Split
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.plan import Card, PlanParams
from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.planning import memory
from fisao_pipeline.planning.memory import Lengths
from fisao_pipeline.planning.work import hours, optimiser_of, phases, responses_per_micro_batch

GIB = 2**30


@dataclass(frozen=True)
class Run:
    """What is to be run, as the configuration says it.

    Attributes:
        policy: Sizes of the backbone.
        verifier: Size of the verifier; None where its configuration is not there.
        prompts: Prompts of each split, None where that is not known yet.
        sampling: K, longest response, batch.
        training: Trainer, rounds, adapter.
        evaluation: Held-out prompts.
        checkpointing: Whether the backbone's `options` ask for gradient checkpointing.
        feature_cache_bytes: What vision features may take at most.
    """

    policy: PolicyShape
    verifier: VerifierShape | None
    prompts: Mapping[Split, int | None]
    sampling: ResponseSamplingParams
    training: PolicyTrainingParams
    evaluation: BenchmarkEvaluationParams
    checkpointing: bool
    feature_cache_bytes: int

    @property
    def value_head(self) -> int:
        """Parameters of the critic, 0 where the trainer has none."""
        if self.training.trainer != "ppo" or self.training.ppo.advantage != "gae":
            return 0
        return memory.value_head_parameters(self.policy.hidden, self.training.ppo.value_width)

    @property
    def engine_share(self) -> float:
        """What a sampling engine takes of the card's memory, as a share; 0 where the policy samples itself."""
        return self.sampling.engine_memory if self.sampling.sampler == "vllm" else 0.0

    def lengths(self, plan: PlanParams) -> Lengths:
        """Longest prompt and response.

        Raises:
            ValueError: If neither parameters nor configuration say what an image takes.
        """
        image = plan.image_tokens or self.policy.image_tokens
        if image is None:
            raise ValueError(
                f"the configuration of {self.policy.kind} does not say how many tokens an image takes, or a larger one "
                "takes more: set plan.image_tokens to those of your largest"
            )
        return Lengths(plan.prompt_tokens + image, self.sampling.max_new_tokens, self.sampling.responses_per_prompt)


def fixed_bytes(run: Run, plan: PlanParams) -> dict[str, int]:
    """What is there whatever runs: weights of both models, adapter with gradient and moments, vision features."""
    image_tokens = run.lengths(plan).prompt - plan.prompt_tokens
    known = [run.prompts.get(split) for split in ("training", "probe")]
    images = sum(count for count in known if count is not None) if any(known) else run.feature_cache_bytes
    return {
        "policy": memory.weight_bytes(run.policy),
        "verifier": memory.weight_bytes(run.verifier) if run.verifier is not None else 0,
        "adapter": memory.adapter_bytes(run.policy, run.value_head),
        "features": memory.feature_bytes(run.policy, image_tokens, images, run.feature_cache_bytes),
    }


def free_bytes(run: Run, plan: PlanParams, card: Card) -> float:
    """What is left of a card beside what is there whatever runs; a sampling engine's share is there all the time."""
    own = card.memory_gib * (1 - run.engine_share) - plan.reserve_gib
    return own * GIB - sum(fixed_bytes(run, plan).values())


def sampling_batch(run: Run, plan: PlanParams, card: Card) -> int | None:
    """The largest batch to draw at once; None if not even one prompt's responses fit.

    An engine takes any: it draws as many at a time as its cache holds, which must be one sequence at least, beside
    weights of its own.
    """
    lengths, wanted = run.lengths(plan), run.sampling.batch_size
    if not run.engine_share:
        return memory.largest_sampling_batch(run.policy, lengths, wanted, free_bytes(run, plan, card))
    sequence = (lengths.prompt + lengths.response) * memory.token_cache_bytes(run.policy)
    whole = max(wanted // lengths.group, 1) * lengths.group
    return whole if memory.weight_bytes(run.policy) + sequence <= run.engine_share * card.memory_gib * GIB else None


def plan_run(run: Run, plan: PlanParams, found: Card | None) -> dict[str, Any]:
    """Memory, work and, for the card that was found or for each that the parameters name, what fits and how long.

    Raises:
        ValueError: If the configuration does not say how many tokens an image takes.
    """
    lengths = run.lengths(plan)
    fixed = fixed_bytes(run, plan)
    responses = responses_per_micro_batch(run.training)
    work = phases(
        run.policy,
        run.verifier,
        lengths,
        run.prompts,
        run.sampling,
        run.training,
        run.evaluation,
        plan.response_share,
        run.checkpointing,
    )
    sizes = {
        **fixed,
        "activations": memory.activation_bytes(run.policy, lengths, responses, run.checkpointing),
        "activations_checkpointed": memory.activation_bytes(run.policy, lengths, responses, True),
    }
    if not run.engine_share:
        sizes["kv_cache"] = memory.cache_bytes(run.policy, lengths, run.sampling.batch_size)
        sizes["sampling"] = memory.sampling_bytes(run.policy, lengths, run.sampling.batch_size)
    return {
        "policy": asdict(run.policy) | {"lora_layers": [list(pair) for pair in run.policy.lora_layers]},
        "verifier": asdict(run.verifier) if run.verifier is not None else None,
        "lengths_tokens": asdict(lengths),
        "trained_parameters": fixed["adapter"] // 16,
        "gradient_checkpointing": run.checkpointing,
        "memory_bytes": sizes,
        "work": {name: asdict(phase) for name, phase in work.items()},
        "new_tokens": sum(phase.new_tokens for phase in work.values() if phase.utilisation == "sampling"),
        "cards": [_on_card(run, plan, card, work) for card in ([found] if found is not None else plan.cards)],
        "gpu_found": found is not None,
        "assumptions": plan.model_dump(mode="json", exclude={"cards"}),
    }


def card_faults(planned: Mapping[str, Any]) -> list[str]:
    """Why the card that was found is too small, with what to change; nothing where it fits or none was found."""
    return [card["fault"] for card in planned["cards"] if planned["gpu_found"] and card["fault"] is not None]


def context_fault(run: Run, plan: PlanParams) -> str | None:
    """Prompt and longest response exceed what the policy can read."""
    lengths, limit = run.lengths(plan), run.policy.context_tokens
    if limit is None or lengths.prompt + lengths.response <= limit:
        return None
    return (
        f"a prompt of {lengths.prompt} tokens (plan.prompt_tokens {plan.prompt_tokens} and the image's "
        f"{lengths.prompt - plan.prompt_tokens}) and a response of {lengths.response} exceed the policy's context of "
        f"{limit}: lower response_sampling.max_new_tokens, or plan.prompt_tokens if your prompts are shorter"
    )


def _on_card(run: Run, plan: PlanParams, card: Card, work: Mapping[str, Any]) -> dict[str, Any]:
    lengths, optimiser = run.lengths(plan), optimiser_of(run.training)
    free = free_bytes(run, plan, card)
    per_item = 2 if run.training.trainer == "dpo" else 1
    micro = memory.largest_micro_batch(
        run.policy, _scaled(lengths, per_item), optimiser.batch_size, free / per_item, run.checkpointing
    )
    sampling = sampling_batch(run, plan, card)
    timed = hours(work, card, run.policy.dtype, plan.utilisation)
    return {
        "name": card.name,
        "memory_gib": card.memory_gib,
        "free_bytes": int(free),
        "engine_bytes": int(run.engine_share * card.memory_gib * GIB),
        "largest_micro_batch": micro,
        "largest_sampling_batch": sampling,
        "fault": _fault(run, plan, card, micro, sampling),
        "hours": timed,
        "total_hours": sum(timed.values()),
    }


def _scaled(lengths: Lengths, per_item: int) -> Lengths:
    """Pairs of one prompt: a group of at most two responses."""
    return lengths if per_item == 1 else replace(lengths, group=min(lengths.group, 2))


def _fault(run: Run, plan: PlanParams, card: Card, micro: int | None, sampling: int | None) -> str | None:
    settings = optimiser_of(run.training)
    block = f"policy_training.{run.training.trainer}"
    if micro is not None and sampling is not None:
        changes = []
        if micro < settings.micro_batch_size:
            changes.append(f"{block}.micro_batch_size {settings.micro_batch_size} to {micro} (the same result)")
        whole = max(run.sampling.batch_size // run.sampling.responses_per_prompt, 1) * run.sampling.responses_per_prompt
        if sampling < whole:
            changes.append(f"response_sampling.batch_size {run.sampling.batch_size} to {sampling} (other samples)")
        return (
            f"{card.name} ({card.memory_gib:g} GiB) is too small as configured: lower " + ", ".join(changes)
            if changes
            else None
        )
    need = sum(fixed_bytes(run, plan).values()) / GIB
    least = "learning from one response" if micro is None else "drawing one prompt's responses"
    advice = _what_would_fit(run, plan, card)
    share = run.engine_share
    engine = (
        f", and the vLLM engine {share * card.memory_gib:.1f} (response_sampling.engine_memory {share:g})"
        if share
        else ""
    )
    return (
        f"{card.name} ({card.memory_gib:g} GiB, {plan.reserve_gib:g} of them reserved) is too small for {least}: "
        f"weights, adapter and features take {need:.1f} GiB{engine}. {advice}"
    )


def _what_would_fit(run: Run, plan: PlanParams, card: Card) -> str:
    """The first of these changes, each on top of those before it, with which the card is large enough."""
    tried: Sequence[tuple[str, Any]] = (
        ("load policy_backbone with dtype: bfloat16", lambda r: replace(r, policy=_in_bfloat16(r.policy))),
        ("options: {gradient_checkpointing: true} on policy_backbone", lambda r: replace(r, checkpointing=True)),
        ("response_sampling.sampler: in_process", lambda r: replace(r, sampling=_in_process(r.sampling))),
        ("quantization: nf4 on policy_backbone", lambda r: replace(r, policy=_in_nf4(r.policy))),
        ("response_sampling.responses_per_prompt: 2", lambda r: replace(r, sampling=_with(r, responses_per_prompt=2))),
        (
            "half of response_sampling.max_new_tokens",
            lambda r: replace(r, sampling=_with(r, max_new_tokens=max(1, r.sampling.max_new_tokens // 2))),
        ),
    )
    done: list[str] = []
    for words, change in tried:
        changed = change(run)
        if changed == run:
            continue
        run, done = changed, [*done, words]
        free = free_bytes(run, plan, card)
        lengths = run.lengths(plan)
        if (
            memory.largest_micro_batch(
                run.policy, lengths, optimiser_of(run.training).batch_size, free, run.checkpointing
            )
            and sampling_batch(run, plan, card) is not None
        ):
            return f"It fits with: {'; '.join(done)}"
    return "No setting makes it fit: take a larger card or a smaller policy_backbone"


def _in_bfloat16(shape: PolicyShape) -> PolicyShape:
    return replace(shape, dtype="bfloat16") if shape.dtype == "float32" else shape


def _in_nf4(shape: PolicyShape) -> PolicyShape:
    return replace(shape, quantization="nf4")


def _in_process(sampling: ResponseSamplingParams) -> ResponseSamplingParams:
    return sampling.model_copy(update={"sampler": "in_process"})


def _with(run: Run, **changes: int) -> ResponseSamplingParams:
    smaller = {name: min(value, getattr(run.sampling, name)) for name, value in changes.items()}
    return run.sampling.model_copy(update=smaller)


# What is done for each response of a prompt anew, where something stands against sharing.
_APART = {
    "unshared": "sampling   each response with its own copy of the prompt's cache",
    "unpacked": "scoring    each response behind its own prompt",
}


def format_plan(planned: Mapping[str, Any]) -> str:
    """The plan for reading: sizes, memory, work, and a line for each card."""
    policy, verifier, sizes = planned["policy"], planned["verifier"], planned["memory_bytes"]
    lengths = planned["lengths_tokens"]
    packed = f", {policy['linear_parameters']:,} of them in {policy['quantization']}" if policy["quantization"] else ""
    lines = [
        f"policy     {policy['kind']}, {policy['parameters']:,} parameters in {policy['dtype']}{packed}; trained: "
        f"{planned['trained_parameters']:,}",
        f"verifier   {verifier['kind']}, {verifier['parameters']:,} parameters in {verifier['dtype']}"
        if verifier is not None
        else "verifier   not known",
        f"tokens     prompt {lengths['prompt']} with its image, response {lengths['response']}, "
        f"{lengths['group']} responses a prompt; {planned['new_tokens']:,} drawn in the whole run",
        *(f"{start}: {policy[why]}" for why, start in _APART.items() if policy[why]),
        "",
        *(f"{_NAMES[name]:<50} {_size(size):>11}" for name, size in sizes.items() if name in _NAMES),
        "",
        f"{'card':<14} {'GiB':>6} {'micro-batch':>12} {'sampling':>9} {'hours':>8}  at the assumed utilisation",
    ]
    for card in planned["cards"]:
        fits = [str(card[name] or "–") for name in ("largest_micro_batch", "largest_sampling_batch")]
        lines.append(
            f"{card['name'][:14]:<14} {card['memory_gib']:>6.1f} {fits[0]:>12} {fits[1]:>9} {card['total_hours']:>8.2f}"
        )
    if any(card["engine_bytes"] for card in planned["cards"]):
        lines.append(
            "A vLLM engine has its share of each card (response_sampling.engine_memory) and draws in any batch."
        )
    faults = [card["fault"] for card in planned["cards"] if card["fault"] is not None]
    if not planned["gpu_found"]:
        faults.append("No GPU was found here: planned for the cards of plan.cards")
    return "\n".join([*lines, *(f"- {fault}." for fault in faults)])


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB // 10 else f"{count / 2**20:.2f} MiB"


_NAMES = {
    "policy": "weights of the policy",
    "verifier": "weights of the verifier",
    "adapter": "adapter, its gradient and AdamW's moments",
    "features": "vision features",
    "activations": "activations of a micro-batch, as configured",
    "activations_checkpointed": "the same with gradient checkpointing",
    "kv_cache": "key-value cache of response_sampling.batch_size",
    "sampling": "sampling altogether, the cache included",
}
