"""What the rows of a study come to: means over seeds for each arm, beside the base model and the first arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fisao_pipeline.benchmarks.seed_means import seed_means, summary_over_seeds
from fisao_pipeline.experiments.curves import at_equal_tokens, mean_curve
from fisao_pipeline.params.study import Arm

Record = Mapping[str, Any]
_OF_ROW = ("arm", "seed", "key", "information", "seconds", "comparison")


def summarise(
    records: Sequence[Record], arms: Sequence[Arm], confidence: float, failed: Sequence[Record] = ()
) -> dict[str, Any]:
    """The artifact of a study.

    Args:
        records: Finished rows, as `fisao_pipeline.experiments.study.Study.run` returns them.
        arms: The arms, in the order in which they are shown; the others are compared with the first.
        confidence: Coverage of the intervals over seeds.
        failed: The rows that failed, as `Study.run` returns them.

    Returns:
        JSON-ready ``{"settings", "base", "arms", "rows", "failed"}``. ``base`` holds the base model's ``metrics`` with
        bootstrap intervals, once per evaluation settings, and the ``arms`` that are compared with them; ``arms`` holds
        by name what the arm ``set``, its means (`fisao_pipeline.benchmarks.seed_means`, empty without a finished row),
        ``against_first`` (per decoding and metric the paired difference to the first arm over the seeds of both; empty
        for the first arm and for one that is evaluated otherwise), and the probe's ``curve`` and CHAIR_i
        ``at_equal_tokens`` (`fisao_pipeline.experiments.curves`); ``rows`` holds per arm and seed the ``comparison``
        with its paired bootstrap intervals.

    Raises:
        ValueError: No row is finished.
    """
    if not records:
        raise ValueError("summarise: no finished row, so there is nothing to compare")
    of_arm = {arm.name: [record for record in records if record["arm"] == arm.name] for arm in arms}
    bases: dict[str, dict[str, Any]] = {}
    for name, rows in of_arm.items():
        for row in rows[:1]:
            base = bases.setdefault(row["base_key"], {"arms": [], "metrics": row["comparison"]["base"]})
            base["arms"].append(name)
    first = of_arm[arms[0].name]
    return {
        "settings": {
            "seeds": sorted({record["seed"] for record in [*records, *failed]}),
            "interval": "Student's t over seeds",
            "confidence": confidence,
        },
        "base": list(bases.values()),
        "arms": {arm.name: {"set": arm.set, **_means(of_arm[arm.name], first, confidence)} for arm in arms},
        "rows": [
            {
                **{name: record[name] for name in _OF_ROW},
                "version": record["inputs"].get("version"),
                "kept_round": next(int(row["round"]) for row in record["history"] if row["kept"]),
            }
            for record in records
        ],
        "failed": [dict(record) for record in failed],
    }


def _means(rows: Sequence[Record], first: Sequence[Record], confidence: float) -> dict[str, Any]:
    if not rows:
        return {"aligned": {}, "change": {}, "against_first": {}, "curve": [], "at_equal_tokens": {}}
    compared = bool(first) and rows is not first
    histories, theirs = ({row["seed"]: row["history"] for row in own} for own in (rows, first))
    return {
        **seed_means((row["comparison"] for row in rows), confidence),
        "against_first": _against(rows, first, confidence) if compared else {},
        "curve": mean_curve(list(histories.values()), confidence),
        "at_equal_tokens": at_equal_tokens(histories, theirs, confidence) if compared else {},
    }


def _against(rows: Sequence[Record], first: Sequence[Record], confidence: float) -> dict[str, Any]:
    """Aligned minus aligned of the first arm, seed by seed: what both have in common through the seed drops out."""
    theirs = {row["seed"]: row for row in first}
    rows = [row for row in rows if row["seed"] in theirs]
    if any(row["base_key"] != theirs[row["seed"]]["base_key"] for row in rows):
        return {}
    pairs = [(row["comparison"]["aligned"], theirs[row["seed"]]["comparison"]["aligned"]) for row in rows]
    found: dict[str, Any] = {}
    for decoding in pairs[0][0] if pairs else ():
        found[decoding] = {}
        for metric in pairs[0][0][decoding]:
            values = [[side[decoding].get(metric, {}).get("value") for side in pair] for pair in pairs]
            if not any(None in pair for pair in values):
                found[decoding][metric] = summary_over_seeds([ours - first for ours, first in values], confidence)
    return found
