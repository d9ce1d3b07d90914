"""The split of an image follows from its content alone, so no run, order or duplicate can move it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from fisao_pipeline.params import SPLITS, ImageIngestionParams
from fisao_pipeline.seeded_choice import seeded_hash

logger = logging.getLogger(__name__)


def assign_split(sha256: str, fractions: Mapping[str, float], seed: int) -> str:
    """Return the split of an image from a seeded hash of its content.

    The hash is a number u in [0, 1); the split is the interval of the summed fractions, in the order of ``SPLITS``,
    that u falls into. Adding images moves no other image, and byte-identical images agree.

    Args:
        sha256: Hex digest of the file's bytes.
        fractions: Share of each split; they sum to 1, a missing one is 0.
        seed: Another seed deals the images anew.
    """
    u = seeded_hash(sha256, seed) / 2**64
    upper = 0.0
    for split in SPLITS:
        upper += fractions.get(split, 0.0)
        if u < upper:
            return split
    # The sum of the fractions may round to just below 1.
    return next(split for split in reversed(SPLITS) if fractions.get(split, 0.0) > 0)


def require_splits(present: Iterable[str], params: ImageIngestionParams) -> None:
    """Check that no split that later stages need is empty.

    Raises:
        ValueError: A required split has no prompts.
    """
    missing = [split for split in SPLITS if split not in set(present)]
    for split in missing:
        problem = (
            f"No prompt falls into the split {split!r}: raise `image_ingestion.split_fractions.{split}` "
            f"(now {params.split_fractions.get(split, 0.0):g}), add images, or name the split in the prompts file."
        )
        if split in params.required_splits:
            raise ValueError(problem)
        logger.warning(problem)
