"""The value function of GAE: one linear layer on the policy's hidden states."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class ValueHead(nn.Module):
    """V(s_t) from the hidden state that predicts token t; zero at the start, so that round 0 has no arbitrary values.

    The hidden states are detached: the value loss trains the head and leaves the policy alone.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Values in reward units, one a row."""
        return self.linear(hidden.detach().float()).squeeze(-1)
