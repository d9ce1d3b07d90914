"""Bytes that are held at once, of runs whose bytes are known."""

import torch
from tests.bench.memory import peak_tensor_bytes

MIB = 2**20


def test_what_is_freed_does_not_add_up():
    def one_after_the_other():
        for _ in range(3):
            torch.ones(MIB // 4).sum()

    assert MIB <= peak_tensor_bytes(one_after_the_other) < MIB + 64


def test_views_and_what_was_there_before_are_nothing_new():
    weights = torch.ones(MIB)
    assert peak_tensor_bytes(lambda: weights.view(2, -1).t()[1:]) == 0


def test_what_a_backward_pass_needs_is_held_until_it_is_through():
    weight = torch.ones(MIB // 4, requires_grad=True)

    def steps():
        x = weight
        for _ in range(4):
            x = x.exp()  # keeps its result
        x.sum().backward()
        weight.grad = None

    assert 5 * MIB <= peak_tensor_bytes(steps) <= 7 * MIB
