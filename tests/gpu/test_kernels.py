"""What a trace says, by hand; and a trace of steps that run."""

import pytest
import torch
from tests.gpu.bench import tiny
from tests.gpu.kernels import Kernel, Tracer, summarise, traced_steps
from tests.gpu.measuring import Round


def event(name, start, duration, category="kernel", kind="X"):
    return {"ph": kind, "cat": category, "name": name, "ts": start, "dur": duration}


def test_a_trace_by_hand():
    """Kernels at 100–120, 110–130, 112–115, 140–150 µs: 40 of 50 busy. Copies and annotations are no kernels."""
    events = [
        event("b", 140, 10),
        event("a", 100, 20),
        event("b", 110, 20),
        event("a", 112, 3),
        event("step", 0, 1000, "gpu_user_annotation"),
        event("copy", 130, 10, "gpu_memcpy"),
        event("flow", 135, 5, kind="f"),
        {"ph": "M", "name": "process_name"},
    ]
    found = summarise(events, "kernel")
    assert found.seconds == pytest.approx(50e-6)
    assert found.idle_share == pytest.approx(0.2)
    assert found.kernels == (Kernel("b", pytest.approx(30e-6), 2), Kernel("a", pytest.approx(23e-6), 2))
    assert found.busy_seconds == pytest.approx(53e-6)


def test_no_kernel_is_an_error():
    with pytest.raises(ValueError, match="no event of the category 'kernel'"):
        summarise([event("a", 0, 1, "cpu_op")], "kernel")


def test_the_steps_that_are_asked_for_are_traced():
    bench = tiny(prompts=1)
    round_ = Round(bench, "cpu")
    layers = bench.text.num_hidden_layers
    tracer = Tracer(torch.device("cpu"))
    with traced_steps(tracer, first=1, steps=3):
        round_.sample(round_.prompts, 6)
    calls = {kernel.name: kernel.calls for kernel in tracer.kernels().kernels}
    assert calls["aten::softmax"] == 3 * layers
    assert calls["aten::multinomial"] == 3
    with (
        pytest.raises(ValueError, match="4 steps ran, too few"),
        traced_steps(Tracer(torch.device("cpu")), first=1, steps=3),
    ):
        round_.sample(round_.prompts, 5)
