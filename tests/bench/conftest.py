from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.bench.side_by_side import CPU_SECONDS, SideBySide, Target, judged, spread, unjudged
from tests.pocket_models import PocketWorld, build_pocket_models

SHIPPED_MODELS = Path(__file__).parents[2] / "data" / "06_models"


@pytest.fixture(scope="session")
def shipped() -> PocketWorld:
    """The shipped pocket models and 32 pictures."""
    return PocketWorld.make(SHIPPED_MODELS, count=32)


@pytest.fixture
def compare(benchmark, request) -> SideBySide:
    """Times things in turn; by CPU seconds, or by the timer that the test's `benchmark` mark names."""
    mark = request.node.get_closest_marker("benchmark")
    timer = mark.kwargs.get("timer", CPU_SECONDS) if mark else CPU_SECONDS
    benchmark._timer = timer
    return SideBySide(benchmark, timer)


@pytest.fixture
def keep_row(benchmark) -> Callable[..., None]:
    """Keeps a row that pytest-benchmark did not time: of bytes, say. Takes the row, its ratios and their target."""

    def keep(row: dict[str, Any], ratios: Sequence[float] = (), target: Target | None = None) -> None:
        row = row | (spread(ratios) | judged(ratios, target) if ratios else unjudged(target))
        benchmark.extra_info["rows"] = [row]

    # What was not timed is not written.
    benchmark.pedantic(lambda: None)
    return keep


@pytest.fixture
def keep_growth(benchmark) -> Callable[[dict[str, Any]], None]:
    """Keeps a stage's seconds and mebibytes at growing amounts."""
    benchmark.pedantic(lambda: None)
    return benchmark.extra_info.setdefault("growth", []).append


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> PocketWorld:
    """Untrained pocket models, as other tests have them."""
    folder = tmp_path_factory.getbasetemp() / "pocket_models"
    return PocketWorld.make(folder if folder.exists() else build_pocket_models(folder))
