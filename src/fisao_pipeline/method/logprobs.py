"""Log-probabilities of sampled tokens, from the very distribution they were sampled from."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def sampling_logits(
    logits: Float[Tensor, "*rows v"], temperature: float, suppressed_ids: Int[Tensor, " s"] | None = None
) -> Float[Tensor, "*rows v"]:
    """The logits that sampling draws from: divided by the temperature, suppressed tokens at minus infinity.

    Sampling and scoring share this function, so a token's probability is the one it was drawn with. Image tokens are
    suppressed because a sampled one breaks the next forward pass.

    Raises:
        ValueError: If the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"sampling_logits: temperature must be positive, got {temperature}")
    scaled = logits.float() / temperature
    if suppressed_ids is not None and suppressed_ids.numel():
        scaled = scaled.index_fill(-1, suppressed_ids, float("-inf"))
    return scaled


def token_logprobs(
    logits: Float[Tensor, "*rows v"],
    token_ids: Int[Tensor, "*rows"],
    temperature: float = 1.0,
    suppressed_ids: Int[Tensor, " s"] | None = None,
) -> Float[Tensor, "*rows"]:
    """Log π(y_t) in nats of each token under its row of logits, in float32.

    Raises:
        ValueError: If ``token_ids`` does not match the rows of ``logits``.
    """
    if logits.shape[:-1] != token_ids.shape:
        raise ValueError(
            f"token_logprobs: logits {tuple(logits.shape)} and token_ids {tuple(token_ids.shape)} do not match"
        )
    scaled = sampling_logits(logits, temperature, suppressed_ids)
    # log_softmax takes the largest logit off first; a logit minus logsumexp would lose a small result to rounding.
    return scaled.log_softmax(dim=-1).gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)


def projected_token_logprobs(
    hidden: Float[Tensor, "n d"],
    weight: Float[Tensor, "v d"],
    bias: Float[Tensor, " v"] | None,
    token_ids: Int[Tensor, " n"],
    temperature: float = 1.0,
    suppressed_ids: Int[Tensor, " s"] | None = None,
    chunk_tokens: int = 1024,
    logit_cap: float | None = None,
) -> Float[Tensor, " n"]:
    """Log π(y_t) straight from hidden states, so that [tokens, vocabulary] logits never exist whole.

    Each chunk of ``chunk_tokens`` rows is projected, reduced and, in the backward pass, projected again: memory is
    chunk_tokens · v instead of n · v, and the logits of a 7B model (vocabulary 32k) no longer decide the batch size.
    All but the last chunk, whose turn in the backward pass comes first, so that its logits may as well be kept.
    With ``logit_cap`` c the logits are c · tanh(x / c) of the projection x, as in Gemma 2.

    Raises:
        ValueError: If ``hidden`` and ``token_ids`` differ in length.
    """
    if hidden.shape[0] != token_ids.shape[0]:
        raise ValueError(
            f"projected_token_logprobs: hidden {tuple(hidden.shape)} and token_ids {tuple(token_ids.shape)} differ in "
            "length"
        )

    def chunk_logprobs(rows: Tensor, ids: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(rows, weight, bias)
        if logit_cap is not None:
            logits = logit_cap * torch.tanh(logits / logit_cap)
        return token_logprobs(logits, ids, temperature, suppressed_ids)

    parts = list(zip(hidden.split(chunk_tokens), token_ids.split(chunk_tokens), strict=True))
    chunks = []
    for number, (rows, ids) in enumerate(parts, start=1):
        if torch.is_grad_enabled() and rows.requires_grad and number < len(parts):
            chunks.append(checkpoint(chunk_logprobs, rows, ids, use_reentrant=False))
        else:
            chunks.append(chunk_logprobs(rows, ids))
    return torch.cat(chunks)
