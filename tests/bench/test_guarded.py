"""What the default tests guard, as it is now."""

import statistics

import pytest
from tests.bench.guarded import GUARDED, NOTE

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]


@pytest.mark.parametrize("make", GUARDED, ids=lambda make: make.__name__)
def test_a_guarded_ratio(keep_row, world, make):
    pair = make(world)
    ratios, ours, theirs = zip(*[pair.measure() for _ in range(3)], strict=True)
    row = {
        "title": pair.title,
        "against": pair.against,
        "ours": f"{statistics.median(ours) * 1e3:.3g} ms",
        "theirs": f"{statistics.median(theirs) * 1e3:.3g} ms",
        "note": NOTE,
        "missing": None,
    }
    keep_row(row, ratios)
