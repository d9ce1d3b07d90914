"""Memory of training and sampling in bytes, from the sizes of a model: stated formulas, no measurement."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fisao_pipeline.models.packing import pack_count
from fisao_pipeline.models.quantization import NF4_BYTES
from fisao_pipeline.models.shape import PolicyShape, VerifierShape
from fisao_pipeline.models.shared_prompts import ROOM

FLOAT32 = 4
# Rows of logits at once in scoring: `method.logprobs.projected_token_logprobs`.
CHUNK_TOKENS = 1024


@dataclass(frozen=True)
class Lengths:
    """Longest sequences, in tokens.

    Attributes:
        prompt: P, with the image's.
        response: T, `max_new_tokens`.
        group: K, responses that share a prompt.
    """

    prompt: int
    response: int
    group: int

    def at_once(self, responses: int) -> Lengths:
        """Where so many are scored at once: K in as few and equal pieces as that needs, a piece being the group."""
        return replace(self, group=-(-self.group // -(-self.group // responses)))

    def packs(self, shape: PolicyShape, share: float = 1.0) -> int:
        """Sequences that a prompt's responses are scored in, C: see `models.packing.pack_count`; K without packing.

        ``share`` is the mean length of a response as a share of the longest.
        """
        if not shape.packs:
            return self.group
        return pack_count(self.prompt, [[share * self.response] * self.group], shape.linear_tokens)

    def scored(self, responses: int, shape: PolicyShape) -> tuple[int, int]:
        """Sequences that score so many responses, and the tokens of each: ⌈n / k⌉ · C of P + ⌈k / C⌉ T.

        k is K, or with n < K the responses of a piece: see ``at_once``.
        """
        group, packs = self.at_once(responses).group, self.at_once(responses).packs(shape)
        return -(-responses // group) * packs, self.prompt + -(-group // packs) * self.response


def weight_bytes(shape: PolicyShape | VerifierShape) -> int:
    """Frozen weights: N · b, with N parameters of b bytes each.

    In NF4 the Q weights of the language tower's linear layers take `NF4_BYTES` instead. The layer that is just computed
    is unpacked beside them, which is left to `plan.reserve_gib`.
    """
    quantized = shape.linear_parameters if isinstance(shape, PolicyShape) and shape.quantization is not None else 0
    return (shape.parameters - quantized) * shape.dtype_bytes + round(quantized * NF4_BYTES)


def value_head_parameters(hidden: int, width: int | None) -> int:
    """Of a linear head on states of width d: d + 1; with a hidden layer of w units: (d + 1) w + w + 1."""
    return hidden + 1 if width is None else (hidden + 1) * width + width + 1


def adapter_bytes(shape: PolicyShape, value_head: int) -> int:
    """Trained weights and what training keeps of each: n · (4 + 4 + 8), and for a backbone of b < 4 bytes b of LoRA's.

    n parameters of LoRA and ``value_head`` of a value head are float32 whatever the backbone is (PEFT's choice): 4
    bytes of weight, 4 of gradient, 8 of AdamW's two moments. LoRA computes with a copy in the backbone's type
    (`models.lora.computing_as_backbone`).
    """
    copy = shape.dtype_bytes if shape.dtype_bytes < FLOAT32 else 0
    return (shape.lora_parameters + value_head) * 4 * FLOAT32 + shape.lora_parameters * copy


def layer_bytes_per_token(shape: PolicyShape) -> int:
    """What one decoder layer keeps of a token for the backward pass, in bytes.

    With weights of b bytes, width d, attention widths q (queries) and k (keys, values), feed-forward width f and
    adapted linear layers of i_j inputs, rank r (Σ r below is over them):

    - two norms keep their input in float32: 2 · 4 d
    - attention keeps queries, output, keys and values: b (2 q + 2 k)
    - the gated feed-forward keeps gate, its activation and up: 3 b f
    - LoRA keeps its input and the product with A: b min(Σ_j i_j, 2 d + f) + Σ_j b r, since layers with one input share
      it, and attention's output is kept already

    A frozen linear layer keeps nothing: its gradient needs its weights only.
    """
    b, d, f = shape.dtype_bytes, shape.hidden, shape.intermediate
    widths = sum(i + o for i, o in shape.lora_layers)
    rank = shape.lora_parameters // (shape.layers * widths) if widths else 0
    lora = min(sum(i for i, _ in shape.lora_layers), 2 * d + f) + rank * len(shape.lora_layers)
    return 2 * FLOAT32 * d + b * (2 * shape.query_width + 2 * shape.key_width + 3 * f + lora)


def activation_bytes(shape: PolicyShape, lengths: Lengths, responses: int, checkpointing: bool) -> int:
    """What an update's forward pass of `responses` responses keeps for its backward pass.

    n sequences of s tokens each, see ``Lengths.scored``: a group, or a piece of it, shares a prompt where the model
    can. With L layers that keep a bytes a token, b bytes a weight, width d and vocabulary v:

        without checkpointing   n s (L a + b d)
        with                    n s (L b d + 2 a + b d)

    since every layer then keeps its input only, and one at a time is computed again, its gradients beside it. On top,
    in both: the mask n s² (1 + b), and one chunk of logits, min(drawn, 1024) · v · (b + 3 · 4): the logits,
    their float32, log-softmax and gradient.
    """
    sequences, length = lengths.scored(responses, shape)
    tokens = sequences * length
    b, kept = shape.dtype_bytes, layer_bytes_per_token(shape)
    stored = b * shape.hidden
    layers = shape.layers * stored + 2 * kept if checkpointing else shape.layers * kept
    mask = sequences * length**2 * (1 + b)
    group = lengths.at_once(responses).group
    drawn = -(-responses // group) * group * lengths.response
    rows = min(drawn, CHUNK_TOKENS)
    return tokens * (layers + stored) + mask + rows * shape.vocabulary * (b + 3 * FLOAT32)


def token_cache_bytes(shape: PolicyShape) -> int:
    """Keys and values of one token: 2 · L · k · b."""
    return 2 * shape.layers * shape.key_width * shape.dtype_bytes


def cache_bytes(shape: PolicyShape, lengths: Lengths, responses: int) -> int:
    """Key-value cache of B responses drawn at once: that of ⌈B / K⌉ · P + B · R tokens.

    R is T - 1, for the last token drawn is never run, rounded up to the room that `models.shared_prompts` makes. Where
    completions do not share their prompt's: that of B · (P + T - 1) tokens.
    """
    run = lengths.response - 1
    if shape.unshared is None:
        tokens = -(-responses // lengths.group) * lengths.prompt + responses * -(-run // ROOM) * ROOM
    else:
        tokens = responses * (lengths.prompt + run)
    return tokens * token_cache_bytes(shape)


def sampling_bytes(shape: PolicyShape, lengths: Lengths, responses: int) -> int:
    """All that drawing `responses` responses at once needs beside weights, the cache included.

    A layer's part of the cache is there twice while it is made longer (1 / L of the cache), logits of v words in
    float32 with their log-softmax and probabilities (B · v · (b + 4 · 4)), and one layer's states of the prompts while
    they are run: ⌈B / K⌉ · P · (b (3 f + 2 q + 2 k) + 4 d). One layer's scores of a step, less than a hundredth of the
    cache, are left out.
    """
    cache = cache_bytes(shape, lengths, responses)
    prompts = -(-responses // lengths.group)
    b = shape.dtype_bytes
    state = b * (3 * shape.intermediate + 2 * shape.query_width + 2 * shape.key_width) + FLOAT32 * shape.hidden
    logits = responses * shape.vocabulary * (b + 4 * FLOAT32)
    return cache + cache // shape.layers + logits + prompts * lengths.prompt * state


def feature_bytes(shape: PolicyShape, image_tokens: int, images: int, limit: int) -> int:
    """Projected vision features kept by image: min(images · tokens · d · b, limit)."""
    return min(images * image_tokens * shape.hidden * shape.dtype_bytes, limit)


def largest_micro_batch(
    shape: PolicyShape, lengths: Lengths, batch_size: int, free_bytes: float, checkpointing: bool
) -> int | None:
    """The largest divisor of `batch_size` whose activations fit; None if not even one response's do."""
    fitting = (
        size
        for size in range(batch_size, 0, -1)
        if batch_size % size == 0 and activation_bytes(shape, lengths, size, checkpointing) <= free_bytes
    )
    return next(fitting, None)


def largest_sampling_batch(shape: PolicyShape, lengths: Lengths, batch_size: int, free_bytes: float) -> int | None:
    """The largest multiple of K up to `batch_size` that can be drawn at once; None if not even one prompt's K can."""
    whole = max(batch_size // lengths.group, 1) * lengths.group
    fitting = (size for size in range(whole, 0, -lengths.group) if sampling_bytes(shape, lengths, size) <= free_bytes)
    return next(fitting, None)
