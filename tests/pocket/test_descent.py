"""The steps that every pocket model is fitted with."""

from itertools import pairwise

import pytest
import torch

from fisao_pipeline.pocket.descent import descend


def test_it_goes_down_and_ends_with_hardly_a_step():
    parameter = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    places = []

    def losses():
        places.append(parameter.detach().clone())
        loss = (parameter**2).sum()
        return loss, {"loss": loss}

    descend([parameter], losses, steps=200, learning_rate=0.05, weight_decay=0.0, name="a bowl")
    assert len(places) == 200
    moves = [float((after - before).norm()) for before, after in pairwise(places)]
    assert moves[0] < 0.1 * moves[49], "the first steps warm up"
    assert moves[-1] < 0.01 * max(moves), "the last ones anneal"
    assert float((places[-1] ** 2).sum()) < 0.1 * 13


def test_a_steep_loss_does_not_throw_it_off():
    """Of a steep loss only the direction counts: its gradient is cut to a norm of one."""
    found = []
    for steepness in (10.0, 1e4):
        parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))

        def losses(parameter=parameter, steepness=steepness):
            loss = steepness * (parameter**2).sum()
            return loss, {}

        descend([parameter], losses, steps=3, learning_rate=0.1, weight_decay=0.0, name="a cliff")
        found.append(parameter.detach().tolist())
    assert found[0] == pytest.approx(found[1], rel=1e-4)
