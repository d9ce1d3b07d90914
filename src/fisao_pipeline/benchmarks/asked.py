"""What predictions were asked, as short hashes: figures of different hashes are of different questions or pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import pandas as pd

_DIGITS = 12


def asked_hashes(rows: pd.DataFrame) -> dict[str, str | None]:
    """Hashes of what one model was asked with one decoding; the order of the rows and repetitions do not count.

    Returns:
        ``caption_images``, the ids of the captioned images; ``caption_prompts``, the texts of their prompts, whichever
        image they are about; ``questions``, the yes/no questions with image, truth and strategy. Null where nothing was
        asked.
    """
    captions, questions = rows[rows["task"] == "caption"], rows[rows["task"] == "pope"]
    strategies = questions["pope_strategy"] if "pope_strategy" in rows else pd.Series("", index=questions.index)
    parts = [*(questions[name].astype(str) for name in ("image_id", "prompt", "answer")), strategies.astype(str)]
    return {
        "caption_images": _hash(captions["image_id"].astype(str)),
        "caption_prompts": _hash(captions["prompt"].astype(str)),
        "questions": _hash(zip(*parts, strict=True)),
    }


def _hash(values: Iterable[object]) -> str | None:
    distinct = sorted(set(values))
    if not distinct:
        return None
    return hashlib.sha256(json.dumps(distinct).encode()).hexdigest()[:_DIGITS]
