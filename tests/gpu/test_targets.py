"""Each target on both of its sides, and how the page says it."""

from dataclasses import replace

import pytest
from tests.gpu.bench import target
from tests.gpu.kernels import Kernel, Kernels
from tests.gpu.measuring import Measured, Phase
from tests.gpu.report import Ceilings, as_json, page
from tests.gpu.targets import rows
from tests.gpu.work import Work

GOOD = Measured(
    phases={
        "sampling": Phase(Work(60_000, "new tokens", 1e15, 1.2e15), 10.0, 50 * 10**9),
        "update": Phase(Work(80_000, "tokens", 2.3e15, 2.6e15), 5.0, 42 * 10**9),
    },
    kernels={"update": Kernels(0.2, 0.25, tuple(Kernel(f"gemm<{n}>|`x`", 0.01, n) for n in range(1, 16)))},
    planned_bytes={"sampling": 55 * 10**9, "update": 40 * 10**9},
    read_bytes=3e13,
    micro_batch=4,
    runs_on={"policy": "Llava in bfloat16"},
    warnings=["half\nof it"],
)
CEILINGS = Ceilings(1e15, 8e14, 3e12)
WHERE = {"command": "c", "commit": "1234567", "date": "2026-11-28", "device": "a card", "torch": "2"}


def met(found=GOOD, bench=None, peak=1e15):
    return [row.met for row in rows(bench or target(), found, peak)]


def changed(name, **changes):
    return replace(GOOD, phases={**GOOD.phases, name: replace(GOOD.phases[name], **changes)})


def test_all_are_met():
    assert met() == [True] * 6


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (changed("update", seconds=5.2), [1]),
        (changed("update", seconds=6), [0, 1]),
        (changed("sampling", seconds=12.1), [2]),
        (changed("update", peak_bytes=61 * 10**9), [3]),
        (replace(GOOD, micro_batch=2), [4]),
        (replace(GOOD, planned_bytes={"sampling": 58 * 10**9}), [5]),
        (replace(GOOD, planned_bytes={"sampling": 42 * 10**9}), [5]),
        (changed("update", peak_bytes=None), [3, 5]),
        (Measured(), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_each_is_missed_by_itself(found, missed):
    assert [number for number, row in enumerate(met(found)) if not row] == missed


def test_a_micro_batch_with_checkpointing_and_a_card_without_a_peak_meet_nothing():
    assert met(bench=replace(target(), checkpointing=True)) == [True] * 4 + [False, True]
    assert met(peak=None) == [False] * 2 + [True] * 4


def test_the_page():
    text = page(WHERE, target(), GOOD, CEILINGS, rows(target(), GOOD, 1e15))
    assert "`c`, commit `1234567`, 2026-11-28, on one a card" in text
    assert "K = 4 × 32 pictures, 512 new tokens" in text and "micro-batch 4 without gradient checkpointing" in text
    assert "| MFU of the update, second target | ≥ 45% | 46.0% | yes |" in text
    assert "| new tokens a second | ≥ 5,000 | 6,000 | yes |" in text
    assert "| peak memory, GB | ≤ 60 | 50.0 | yes |" in text
    assert "| planner's estimate of the peak, off by | ≤ 15% | 10.0% | yes |" in text
    assert "800.0 TFLOPS here (1,000.0 nominal), copies 3,000.0 GB/s" in text
    assert "cannot draw more than 6,000 tokens a second" in text
    assert "| update | 16,000.0 tokens/s | 5.00 | 46.0% | 57.5% | 65.0% | 39.1 |" in text
    assert "| sampling | 51.22 | 46.57 | +10.0% |" in text
    assert "200.0 ms, 25.0% without a kernel running." in text
    assert text.count("| 10.00 | 6.7% |") == 10, "the top ten"
    assert "| `gemm<1>\\|'x'` | 1 | 10.00 | 6.7% |" in text
    assert "Warning: half of it" in text and "Wrong" not in text


def test_the_figures():
    figures = as_json(WHERE, target(), GOOD, CEILINGS, rows(target(), GOOD, 1e15))
    assert figures["phases"]["update"]["mfu_of_nominal"] == pytest.approx(0.46)
    assert figures["phases"]["update"]["mfu_of_measured"] == pytest.approx(0.575)
    assert figures["targets"][2] == {
        "target": "new tokens a second",
        "wanted": "≥ 5,000",
        "measured": 6000.0,
        "met": True,
    }
    assert figures["configuration"]["new_tokens"] == 512 and figures["configuration"]["micro_batch_size"] == 4
    assert len(figures["kernels"]["update"]["top"]) == 10
