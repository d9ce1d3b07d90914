"""Ways of doing the same work, timed in turn, so that what is said of them does not hang on the machine's mood."""

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

Result = TypeVar("Result")
CPU_SECONDS = time.process_time
"""One thread computes, so that on a free core these are seconds; on a busy one they are still the work's own."""


def child_cpu_seconds() -> float:
    """CPU seconds of the processes that this one has started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def attempt(run: Callable[[], Result]) -> tuple[Result | None, str | None]:
    """What another's code gives, or in one line why it gives nothing: a row says so instead of being left out."""
    try:
        return run(), None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # pytest's of a test that takes too long is no Exception
        first_line = next(iter(str(error).strip().splitlines()), "")
        return None, f"{type(error).__name__}: {first_line}".removesuffix(": ")


@dataclass(frozen=True)
class Target:
    """What a ratio must be."""

    value: float
    at_most: bool = False

    def met(self, ratio: float) -> bool:
        return ratio <= self.value if self.at_most else ratio >= self.value


@dataclass(frozen=True)
class Rival:
    """Another way, or a floor that no way can be below.

    Attributes:
        name: As the table says it.
        run: Does the work once; a number that it returns are the seconds that count, where not all of it does.
        amount: Of it, in ``Work.unit``; None for as much as ours.
        target: Of the ratio; None where there is none.
        is_floor: Whether the ratio is our time over this one's; otherwise it is this one's over ours.
        missing: Why it could not be run here.
        rounds: In how many rounds it takes a turn, the first ones; None for all. For what is slow, and far off.
    """

    name: str
    run: Callable[[], Any] | None
    amount: float | None = None
    target: Target | None = None
    is_floor: bool = False
    missing: str | None = None
    rounds: int | None = None


@dataclass(frozen=True)
class Work:
    """What is done: its title in the table, how much of what, and what else a reader should know."""

    title: str
    amount: float
    unit: str
    note: str = ""


class SideBySide:
    """Times ours and its rivals round by round and keeps a row for each pair beside pytest-benchmark's own numbers."""

    def __init__(self, benchmark: Any, timer: Callable[[], float]):
        self.benchmark = benchmark
        self.timer = timer

    def __call__(self, work: Work, ours: Callable[[], Any], rivals: Sequence[Rival], rounds: int = 5) -> list[dict]:
        """Measure, after one round that does not count; returns the rows.

        A rival that raises is not asked again, and its row has the reason in place of a ratio.
        """
        missing = {rival.name: rival.missing for rival in rivals}
        times: dict[str, list[float]] = {rival.name: [] for rival in rivals}

        def rivals_first() -> None:
            for rival in rivals:
                if rival.run is None or missing[rival.name] is not None:
                    continue
                if rival.rounds is not None and len(times[rival.name]) > rival.rounds:  # one does not count
                    continue
                started = self.timer()
                own_count, missing[rival.name] = attempt(rival.run)
                passed = self.timer() - started
                times[rival.name].append(own_count if isinstance(own_count, float) else passed)

        self.benchmark.pedantic(ours, setup=rivals_first, rounds=rounds, warmup_rounds=1)
        own = self.benchmark.stats.stats.data
        rows = [_row(work, own, replace(r, missing=missing[r.name]), times[r.name][1:]) for r in rivals]
        self.benchmark.extra_info.setdefault("rows", []).extend(rows)
        return rows


def _row(work: Work, own: Sequence[float], rival: Rival, theirs: Sequence[float]) -> dict[str, Any]:
    row: dict[str, Any] = {"title": work.title, "against": rival.name, "note": work.note, "missing": rival.missing}
    row["ours"] = rate(work.amount, own, work.unit)
    if rival.missing is not None:
        return row | unjudged(rival.target)
    amount = work.amount if rival.amount is None else rival.amount
    # By what both did of the work, in the rounds that it was in.
    pairs = [(a / work.amount, b / amount) for a, b in zip(own[: len(theirs)], theirs, strict=True)]
    ratios = [a / b if rival.is_floor else b / a for a, b in pairs]
    return row | spread(ratios) | {"theirs": rate(amount, theirs, work.unit)} | judged(ratios, rival.target)


def rate(amount: float, seconds: Sequence[float], unit: str) -> str:
    per_second = amount / statistics.median(seconds)
    return f"{per_second:,.0f} {unit}/s" if per_second >= 10 else f"{per_second:.3g} {unit}/s"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def judged(values: Sequence[float], target: Target | None) -> dict[str, Any]:
    """The target in words, and whether the median meets it."""
    return {} if target is None else unjudged(target) | {"met": target.met(statistics.median(values))}


def unjudged(target: Target | None) -> dict[str, Any]:
    """The same where nothing was measured: a target that nobody has tried is not met."""
    return {} if target is None else {"target": f"{'≤' if target.at_most else '≥'} {target.value:g}", "met": False}
