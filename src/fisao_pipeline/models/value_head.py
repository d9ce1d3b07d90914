"""The value function of GAE: a small network on the policy's hidden states."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class ValueHead(nn.Module):
    """V(s_t) from the hidden state that predicts token t; zero at the start, so that round 0 has no arbitrary values.

    The hidden states are detached: the value loss trains the head and leaves the policy alone. They were made to
    predict a token and not what is still to be earned, so a hidden layer reads more out of them than a linear map.
    """

    def __init__(self, hidden_size: int, width: int | None = None):
        """Make the head.

        Args:
            hidden_size: Of the policy's states.
            width: Of the hidden layer; None for a linear head.
        """
        super().__init__()
        self.hidden = nn.Identity() if width is None else nn.Sequential(nn.Linear(hidden_size, width), nn.SiLU())
        self.linear = nn.Linear(hidden_size if width is None else width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Values in reward units, one a row."""
        return self.linear(self.hidden(hidden.detach().float())).squeeze(-1)
