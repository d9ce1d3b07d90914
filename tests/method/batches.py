"""Random batches of completions for the properties, and what every test of a masked function does with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

GARBAGE = torch.tensor([float("nan"), float("inf"), float("-inf"), 3e38, 0.0])
few = settings(max_examples=25, deadline=None)


@dataclass
class Batch:
    """Completion mask [b, t] (True from the first column on) and a source of numbers of that shape."""

    mask: Tensor
    generator: torch.Generator

    def normal(self, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(self.mask.shape, generator=self.generator)

    def soiled(self, values: Tensor) -> Tensor:
        """The same values with nan, inf and large numbers wherever the mask is False."""
        waste = torch.randint(len(GARBAGE), values.shape, generator=self.generator)
        return torch.where(self.mask, values, GARBAGE[waste])

    def order(self) -> Tensor:
        return torch.randperm(self.mask.shape[0], generator=self.generator)

    def __repr__(self) -> str:
        return f"Batch(lengths={self.mask.sum(dim=1).tolist()}, seed={self.generator.initial_seed()})"


@st.composite
def batches(draw: st.DrawFn, row_step: int = 1) -> Batch:
    """Batches of up to 6 completions of up to 7 tokens; the number of rows is a multiple of ``row_step``."""
    rows = row_step * draw(st.integers(1, 6 // row_step))
    columns = draw(st.integers(1, 7))
    lengths = draw(st.lists(st.integers(1, columns), min_size=rows, max_size=rows))
    mask = torch.arange(columns) < torch.tensor(lengths).unsqueeze(1)
    return Batch(mask, torch.Generator().manual_seed(draw(st.integers(0, 2**31))))


def assert_refuses_odd_shapes(
    function: Callable[..., object], names: Sequence[str], caller: str = "", **settings: object
) -> None:
    """One tensor of the named ones has one row, the others two: each in its turn is refused, with all names and shapes.

    To be called without the check of annotations (`as_in_production`).
    """
    for odd in names:
        arguments = {name: torch.ones(1 if name == odd else 2, 3) for name in names}
        if "completion_mask" in arguments:
            arguments["completion_mask"] = arguments["completion_mask"].bool()
        shapes = ", ".join(rf"{name} \({1 if name == odd else 2}, 3\)" for name in names)
        with pytest.raises(
            ValueError, match=rf"^{caller or function.__name__}: these must have the same shape: {shapes}$"
        ):
            function(**arguments, **settings)


def assert_matches(actual: Tensor, expected: object, atol: float = 1e-6) -> None:
    """Float32 against a float64 reference."""
    torch.testing.assert_close(actual.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=atol)
