"""Which of the responses to one prompt to prefer, from one score each."""

from __future__ import annotations

import math
from collections.abc import Sequence


def widest_pairs(scores: Sequence[float], count: int, min_gap: float = 0.0) -> list[tuple[int, int]]:
    """The ``count`` pairs (better, worse) whose scores differ most, and by more than ``min_gap``.

    Ties are no pairs, and a response whose score is NaN (unknown) is in none. Pairs of the same gap come in the order
    of their responses, so that the answer does not depend on chance.

    Raises:
        ValueError: If ``min_gap`` is negative.
    """
    if min_gap < 0:
        raise ValueError(f"widest_pairs: min_gap must not be negative, got {min_gap}")
    known = [index for index, score in enumerate(scores) if not math.isnan(score)]
    gaps = [(scores[i] - scores[j], i, j) for i in known for j in known if scores[i] - scores[j] > min_gap]
    return [(i, j) for _, i, j in sorted(gaps, key=lambda pair: (-pair[0], pair[1], pair[2]))[:count]]


def best_response(scores: Sequence[float], min_gap: float = 0.0) -> int | None:
    """The first response of the highest score; None unless it beats the worst by more than ``min_gap``.

    Where all responses tie, the score prefers none: to imitate one would be to imitate the policy as it is.

    Raises:
        ValueError: If ``min_gap`` is negative.
    """
    pairs = widest_pairs(scores, 1, min_gap)
    return pairs[0][0] if pairs else None
