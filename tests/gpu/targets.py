"""What a round on a GPU should reach, and whether it did."""

from dataclasses import dataclass

from tests.bench.side_by_side import Target
from tests.gpu.bench import Bench
from tests.gpu.measuring import Measured

GIGABYTE = 1e9


@dataclass(frozen=True)
class Row:
    """A target beside what was measured.

    Attributes:
        name: Of what is measured.
        target: What it should be.
        measured: None where it was not.
        text: The target and what was measured in words.
    """

    name: str
    target: Target
    measured: float | None
    text: tuple[str, str]

    @property
    def met(self) -> bool:
        """What was not measured is not met."""
        return self.measured is not None and self.target.met(self.measured)


def rows(bench: Bench, found: Measured, peak_flops: float | None) -> list[Row]:
    """Every target; `peak_flops` is the card's nominal peak, None where it has none."""
    sampling, update = (found.phases.get(name) for name in ("sampling", "update"))
    mfu = update.utilisation(peak_flops) if update is not None and peak_flops else None
    peak = most(found)
    gap = planner_gap(found)
    whole = None if bench.checkpointing else found.micro_batch or None
    return [
        _row("MFU of the update, first target", Target(0.40), mfu, "{:.0%}", "{:.1%}"),
        _row("MFU of the update, second target", Target(0.45), mfu, "{:.0%}", "{:.1%}"),
        _row("new tokens a second", Target(5000), sampling and sampling.per_second, "{:,.0f}", "{:,.0f}"),
        _row("peak memory, GB", Target(60, at_most=True), peak and peak / GIGABYTE, "{:.0f}", "{:.1f}"),
        _row("micro-batch without gradient checkpointing", Target(4), whole, "{:.0f}", "{:.0f}"),
        _row("planner's estimate of the peak, off by", Target(0.15, at_most=True), gap, "{:.0%}", "{:.1%}"),
    ]


def most(found: Measured) -> int | None:
    """The peak of all phases; None unless each has one."""
    peaks = [phase.peak_bytes for phase in found.phases.values()]
    return max(peak for peak in peaks if peak is not None) if peaks and None not in peaks else None


def planner_gap(found: Measured) -> float | None:
    """|planned / measured - 1| of the peak of all phases; None where it was not measured or planned."""
    peak = most(found)
    return abs(max(found.planned_bytes.values()) / peak - 1) if peak and found.planned_bytes else None


def _row(name: str, target: Target, measured: float | None, wanted: str, said: str) -> Row:
    sign = "≤" if target.at_most else "≥"
    words = said.format(measured) if measured is not None else "not measured"
    return Row(name, target, measured, (f"{sign} {wanted.format(target.value)}", words))
