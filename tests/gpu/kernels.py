"""Where a device's time goes, by torch's profiler: the kernels that take most of it, and when none runs."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.gpu.ceilings import synchronize
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fisao_pipeline.models import decoding
from fisao_pipeline.models.steps import Steps


@dataclass(frozen=True)
class Kernel:
    """All calls of one kernel."""

    name: str
    seconds: float
    calls: int


@dataclass(frozen=True)
class Kernels:
    """What ran while a tracer did.

    Attributes:
        seconds: From the first kernel's start to the last one's end.
        idle_share: Of these, without a kernel running.
        kernels: By seconds, the most first.
    """

    seconds: float
    idle_share: float
    kernels: tuple[Kernel, ...]

    @property
    def busy_seconds(self) -> float:
        """Of all kernels together."""
        return sum(kernel.seconds for kernel in self.kernels)


def summarise(events: Iterable[Mapping[str, Any]], category: str) -> Kernels:
    """What the events of a Chrome trace say; of those of one category, whose times are in microseconds.

    Raises:
        ValueError: If there is none of that category.
    """
    chosen = [event for event in events if event.get("ph") == "X" and event.get("cat") == category]
    if not chosen:
        raise ValueError(f"the profiler recorded no event of the category {category!r}")
    took: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    busy, covered_to = 0.0, -1.0
    for event in sorted(chosen, key=lambda event: event["ts"]):
        end = event["ts"] + event["dur"]
        busy += max(0.0, end - max(event["ts"], covered_to))
        covered_to = max(covered_to, end)
        took[event["name"]] += event["dur"]
        calls[event["name"]] += 1
    span = covered_to - min(event["ts"] for event in chosen)
    kernels = tuple(Kernel(name, time / 1e6, calls[name]) for name, time in took.most_common())
    return Kernels(span / 1e6, 1 - busy / span, kernels)


class Tracer:
    """Records what a device does from `start` to `stop`; on the CPU operators stand for kernels."""

    def __init__(self, device: torch.device):
        self.device = device
        on_gpu = device.type == "cuda"
        self._category = "kernel" if on_gpu else "cpu_op"
        # On a GPU its side alone: to record the other one would slow what launches the kernels.
        self._profile = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])

    def start(self) -> None:
        """Begin, with nothing left to do on the device."""
        synchronize(self.device)
        self._profile.start()

    def stop(self) -> None:
        """End, when the device has done all."""
        synchronize(self.device)
        self._profile.stop()

    def kernels(self) -> Kernels:
        """What was recorded."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(file))
            events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
        return summarise(events, self._category)


@contextmanager
def traced_steps(tracer: Tracer, first: int, steps: int) -> Iterator[None]:
    """Trace as many steps of drawing in the block, recorded ones or plain, from number `first` on; the first is 0."""
    count, real = 0, decoding.steps_of

    def noted(*given) -> Steps:
        made = real(*given)
        after = made.after

        def note(*arguments) -> Tensor:
            nonlocal count
            if count == first:
                tracer.start()
            elif count == first + steps:
                tracer.stop()
            count += 1
            return after(*arguments)

        made.after = note
        return made

    decoding.steps_of = noted
    try:
        yield
    finally:
        decoding.steps_of = real
    if count <= first + steps:
        raise ValueError(f"{count} steps ran, too few to trace {steps} from number {first} on")
