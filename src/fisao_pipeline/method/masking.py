"""The only place that divides by a mask."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of ``values`` where ``mask`` is True, over the whole batch and never per row first.

    A mean per response first would weigh a token of a short response more, which favours short responses.

    Raises:
        ValueError: If the mask counts nothing.
    """
    count = mask.sum()
    if count == 0:
        raise ValueError(f"masked_mean: the mask of shape {tuple(mask.shape)} counts no element")
    # where, not a product: what is masked may be inf or nan and must not leak in as 0 * inf.
    return torch.where(mask, values, 0.0).sum() / count


def masked_std(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Population standard deviation of ``values`` where ``mask`` is True.

    Raises:
        ValueError: If the mask counts nothing.
    """
    mean = masked_mean(values, mask)
    return masked_mean((values - mean) ** 2, mask).sqrt()
