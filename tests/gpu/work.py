"""What a round's phases have to do: amounts, floating-point operations, and bytes that sampling must read."""

from dataclasses import dataclass

from tests.gpu.bench import WORDS, Bench

from fisao_pipeline.models.shape import PolicyShape, VerifierShape
from fisao_pipeline.planning.memory import Lengths, token_cache_bytes
from fisao_pipeline.planning.work import forward_flops, update_flops

PHASES = ("annotation", "sampling", "scoring", "update")


@dataclass(frozen=True)
class Work:
    """Of one phase.

    Attributes:
        amount: How many …
        unit: … of what.
        parameter_flops: 2 for each weight of a linear layer and token of a forward pass, and twice that in a LoRA step:
            gradients go through frozen weights and not to them. The output layer's weights count for drawn tokens only.
            Nothing that is computed again counts, and neither does the adapter.
        flops: As the planner counts: embeddings among the weights, and attention, hidden pairs included.
    """

    amount: int
    unit: str
    parameter_flops: float
    flops: float


def work_of(bench: Bench, shape: PolicyShape, lengths: Lengths, vision_parameters: int) -> dict[str, Work]:
    """The work of each phase; `vision_parameters` are those of the verifier's image tower."""
    drawn = bench.prompts * bench.responses * bench.new_tokens
    packs = lengths.packs(shape)
    packed = lengths.prompt + -(-bench.responses // packs) * bench.new_tokens
    run = bench.prompts * packs * packed
    # The last token drawn is never run.
    sampled = bench.prompts * lengths.prompt + drawn - bench.prompts * bench.responses
    forward = 2.0 * (shape.linear_parameters * run + shape.head_parameters * drawn)
    planned = forward_flops(shape, run, packed, drawn)
    patches = (bench.vision.image_size // bench.vision.patch_size) ** 2
    seeing = 2.0 * vision_parameters * patches * bench.prompts
    return {
        "annotation": Work(bench.prompts, f"pictures with {len(WORDS)} words each", seeing, seeing),
        "sampling": Work(
            drawn,
            "new tokens",
            2.0 * (shape.linear_parameters * sampled + shape.head_parameters * drawn),
            forward_flops(shape, sampled, lengths.prompt + bench.new_tokens / 2, drawn),
        ),
        "scoring": Work(2 * run, "tokens", 2 * forward, 2 * planned),
        "update": Work(run, "tokens", 2 * forward, update_flops(shape, run, packed, drawn, checkpointing=False)),
    }


def sampling_read_bytes(bench: Bench, shape: PolicyShape, lengths: Lengths) -> float:
    """What drawing all responses must read at least: each step all weights once, and the cache so far.

    With weights of b bytes, `sampling_batch` responses at once, and t tokens drawn before a step, that is the P tokens
    of each prompt, once for all its responses, and t tokens of each response.
    """
    batches = -(-bench.prompts * bench.responses // bench.sampling_batch)
    weights = (shape.linear_parameters + shape.head_parameters) * shape.dtype_bytes
    steps = bench.new_tokens - 1
    prompts = bench.prompts * (1 if shape.unshared is None else bench.responses)
    positions = prompts * steps * lengths.prompt + bench.prompts * bench.responses * (steps * (steps + 1) // 2)
    return float(batches * steps * weights + positions * token_cache_bytes(shape))


def planned_bytes(
    bench: Bench, shape: PolicyShape, verifier: VerifierShape, value_head: int, lengths: Lengths
) -> dict[str, int]:
    """The planner's memory of the two phases that need most, weights, optimiser and features of pictures included."""
    from fisao_pipeline.planning import memory

    image_tokens = shape.image_tokens or 0
    fixed = (
        memory.weight_bytes(shape)
        + memory.weight_bytes(verifier)
        + memory.adapter_bytes(shape, value_head)
        + memory.feature_bytes(shape, image_tokens, bench.prompts, 2 << 30)
    )
    micro = bench.ppo.micro_batch_size
    return {
        "sampling": fixed + memory.sampling_bytes(shape, lengths, bench.sampling_batch),
        "update": fixed + memory.activation_bytes(shape, lengths, micro, bench.checkpointing),
    }
