"""The only place that divides by a mask."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def require_same_shape(function: str, **tensors: Tensor) -> None:
    """Refuse tensors that would be broadcast against one another and give a number, but the wrong one.

    Raises:
        ValueError: If the named tensors differ in shape.
    """
    if len({x.shape for x in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in tensors.items())
        raise ValueError(f"{function}: these must have the same shape: {shapes}")


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of ``values`` where ``mask`` is True, over the whole batch and never per row first.

    A mean per response first would weigh a token of a short response more, which favours short responses.

    Raises:
        ValueError: If the shapes differ or the mask counts nothing.
    """
    require_same_shape("masked_mean", values=values, mask=mask)
    count = mask.sum()
    if count == 0:
        raise ValueError(f"masked_mean: the mask of shape {tuple(mask.shape)} counts no element")
    # where, not a product: what is masked may be inf or nan and must not leak in as 0 * inf.
    return torch.where(mask, values, 0.0).sum() / count


def masked_std(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Population standard deviation of ``values`` where ``mask`` is True.

    Raises:
        ValueError: If the shapes differ or the mask counts nothing.
    """
    # Masked before it is squared: behind the square, the gradient at a masked nan would be 0 * nan.
    deviation = torch.where(mask, values - masked_mean(values, mask), 0.0)
    return masked_mean(deviation**2, mask).sqrt()


def masked_row_means(values: Float[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, " b"]:
    """Mean of each row of ``values`` where ``mask`` is True.

    Raises:
        ValueError: If the shapes differ or the mask counts nothing in some row.
    """
    require_same_shape("masked_row_means", values=values, mask=mask)
    counts = mask.sum(dim=1)
    if (counts == 0).any():
        row = int((counts == 0).float().argmax())
        raise ValueError(f"masked_row_means: the mask of shape {tuple(mask.shape)} counts no element of row {row}")
    return torch.where(mask, values, 0.0).sum(dim=1) / counts
