"""On which pictures alignment helped, on which it harmed, and some of each to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.chair import ChairItem
from fisao_pipeline.seeded_choice import seeded_choice

MODELS = ("base", "aligned")
KINDS = ("win", "lose", "tie")
RULE = (
    "Of each image the mentions of objects that are not there are counted over all its captions: fewer than the base's "
    "is a win, more a loss, as many a tie, whatever happens to recall, which is told beside. Wins and losses that are "
    "shown have the largest differences, equal ones by recall (best first; losses: worst first), then by image id; "
    "ties are a choice by seeded hash of their ids."
)
# A caption may be of any length; what is shown of it need not.
_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True)
class _Outcome:
    """One image: false mentions and distinct true objects named, summed over its captions, of base and aligned."""

    image_id: str
    false_mentions: tuple[int, int]
    named: tuple[int, int]
    true_objects: tuple[int, int]

    @property
    def false_change(self) -> int:
        return self.false_mentions[1] - self.false_mentions[0]

    @property
    def recall_change(self) -> float | None:
        if not all(self.true_objects):
            return None
        old, new = (named / true for named, true in zip(self.named, self.true_objects, strict=True))
        return new - old

    @property
    def kind(self) -> str:
        return "win" if self.false_change < 0 else "lose" if self.false_change > 0 else "tie"


def win_lose_tie(
    items: Mapping[str, Sequence[ChairItem]],
    captions: Mapping[str, Sequence[Mapping[str, Any]]],
    count: int,
    seed: int,
) -> dict[str, Any]:
    """Count the images by whether the aligned model names fewer absent objects than the base, and choose examples.

    Args:
        items: Of ``base`` and ``aligned``: their captions of the same images.
        captions: The same captions as ``prompt`` and ``response``, in the order of ``items``.
        count: Examples of each kind at most.
        seed: Of the choice among ties.

    Returns:
        ``rule``; ``counts``: for `win`, `lose` and `tie` the number of ``images``, and of these those with
        ``recall_higher``, ``recall_equal``, ``recall_lower`` and ``recall_undefined``; and the examples under
        `win`, `lose` and `tie`: ``image_id``, ``false_change``, ``recall_change``, ``true_objects``, and for each
        model ``answers`` of ``prompt``, ``response``, ``hallucinated`` and ``named``.
    """
    outcomes = _outcomes(items)
    by_kind = {kind: [outcome for outcome in outcomes if outcome.kind == kind] for kind in KINDS}
    shown = {
        "win": sorted(by_kind["win"], key=lambda o: (o.false_change, -(o.recall_change or 0), o.image_id))[:count],
        "lose": sorted(by_kind["lose"], key=lambda o: (-o.false_change, o.recall_change or 0, o.image_id))[:count],
        "tie": _chosen(by_kind["tie"], count, seed),
    }
    answers = {model: _answers(items[model], captions[model]) for model in MODELS}
    truths = {item.image_id: list(item.true_objects) for item in items["base"]}
    return {
        "rule": RULE,
        "counts": {kind: _counts(found) for kind, found in by_kind.items()},
        **{
            kind: [
                {
                    "image_id": outcome.image_id,
                    "false_change": outcome.false_change,
                    "recall_change": outcome.recall_change,
                    "true_objects": truths[outcome.image_id],
                    **{model: {"answers": answers[model][outcome.image_id]} for model in MODELS},
                }
                for outcome in outcomes_shown
            ]
            for kind, outcomes_shown in shown.items()
        },
    }


def _outcomes(items: Mapping[str, Sequence[ChairItem]]) -> list[_Outcome]:
    sums: dict[str, dict[str, list[int]]] = {}
    for side, model in enumerate(MODELS):
        for item in items[model]:
            of_image = sums.setdefault(item.image_id, {name: [0, 0] for name in ("false", "named", "true")})
            of_image["false"][side] += len(item.hallucinated)
            of_image["named"][side] += len(item.named)
            of_image["true"][side] += len(item.true_objects)
    return [
        _Outcome(image_id, tuple(s["false"]), tuple(s["named"]), tuple(s["true"]))
        for image_id, s in sorted(sums.items())
    ]


def _chosen(outcomes: Sequence[_Outcome], count: int, seed: int) -> list[_Outcome]:
    if not outcomes or not count:
        return []
    of_id = {outcome.image_id: outcome for outcome in outcomes}
    table = seeded_choice(pd.DataFrame({"image_id": list(of_id)}), "image_id", count, seed)
    return [of_id[image_id] for image_id in table["image_id"]]


def _counts(outcomes: Sequence[_Outcome]) -> dict[str, int]:
    changes = [outcome.recall_change for outcome in outcomes]
    defined = [change for change in changes if change is not None]
    return {
        "images": len(outcomes),
        "recall_higher": sum(change > 0 for change in defined),
        "recall_equal": sum(change == 0 for change in defined),
        "recall_lower": sum(change < 0 for change in defined),
        "recall_undefined": len(changes) - len(defined),
    }


def _answers(items: Sequence[ChairItem], captions: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for item, caption in zip(items, captions, strict=True):
        response = caption["response"]
        found.setdefault(item.image_id, []).append(
            {
                "prompt": caption["prompt"],
                "response": response if len(response) <= _SHOWN_CHARACTERS else f"{response[:_SHOWN_CHARACTERS]}…",
                "hallucinated": list(item.hallucinated),
                "named": list(item.named),
            }
        )
    return found
