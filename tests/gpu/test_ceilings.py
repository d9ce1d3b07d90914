"""Rates against a clock that is known, and on the CPU."""

import pytest
import torch
from tests.gpu import ceilings
from tests.gpu.ceilings import best_seconds, copy_rate, matrix_rate

CPU = torch.device("cpu")


class Clock:
    """Each run takes a millisecond less than the one before, from 100 on."""

    def __init__(self):
        self.now, self.takes = 0.0, 0.1

    def run(self):
        self.now += self.takes
        self.takes -= 0.001


def test_the_best_round_counts_and_the_first_does_not(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(ceilings.time, "perf_counter", lambda: clock.now)
    # Rounds of 100 + 99, 98 + 97 and 96 + 95 ms.
    assert best_seconds(clock.run, CPU, rounds=2, repeats=2) == pytest.approx(0.0955)
    clock = Clock()
    monkeypatch.setattr(ceilings.time, "perf_counter", lambda: clock.now)
    assert best_seconds(lambda: setattr(clock, "now", clock.now + 1 + (clock.now > 0)), CPU, 1, 1) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rates_are_operations_and_bytes_over_seconds(monkeypatch, dtype):
    monkeypatch.setattr(ceilings, "best_seconds", lambda run, *_: run() is not None and 0.5)
    assert matrix_rate(CPU, dtype, side=10) == 2 * 10**3 / 0.5
    assert copy_rate(CPU, size=100) == 2 * 100 / 0.5


def test_rates_here():
    assert 1e6 < matrix_rate(CPU, torch.float32, side=128, rounds=1, repeats=2) < 1e14
    assert 1e6 < copy_rate(CPU, size=1 << 20, rounds=1, repeats=2) < 1e13
