"""What the rows of a study come to: means over seeds for each arm, beside the base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fisao_pipeline.benchmarks.comparison_table import ROW_TITLES, markdown_table
from fisao_pipeline.benchmarks.seed_means import seed_means
from fisao_pipeline.params import Arm

HEADLINE = ("chair_i", "chair_s", "recall", "repeated_mentions", "pope_accuracy")


def summarise(records: Sequence[Mapping[str, Any]], arms: Sequence[Arm], confidence: float) -> dict[str, Any]:
    """The artifact of a study.

    Args:
        records: What `fisao_pipeline.experiments.study.Study.run` returns, every arm with every seed.
        arms: The arms, in the order in which they are shown.
        confidence: Coverage of the intervals over seeds.

    Returns:
        JSON-ready ``{"settings", "base", "arms", "rows"}``. ``base`` holds the base model's ``metrics`` with bootstrap
        intervals, once per evaluation settings, and the ``arms`` that are compared with them; ``arms`` holds by name
        what the arm ``set`` and its means, see `fisao_pipeline.benchmarks.seed_means`; ``rows`` holds per arm and seed
        the ``comparison`` with its paired bootstrap intervals.
    """
    of_arm = {arm.name: [record for record in records if record["arm"] == arm.name] for arm in arms}
    bases: dict[str, dict[str, Any]] = {}
    for name, rows in of_arm.items():
        base = bases.setdefault(rows[0]["base_key"], {"arms": [], "metrics": rows[0]["comparison"]["base"]})
        base["arms"].append(name)
    return {
        "settings": {
            "seeds": sorted({record["seed"] for record in records}),
            "interval": "Student's t over seeds",
            "confidence": confidence,
        },
        "base": list(bases.values()),
        "arms": {
            arm.name: {"set": arm.set, **seed_means((r["comparison"] for r in of_arm[arm.name]), confidence)}
            for arm in arms
        },
        "rows": [
            {
                **{name: record[name] for name in ("arm", "seed", "key", "information", "seconds", "comparison")},
                "kept_round": next(int(row["round"]) for row in record["history"] if row["kept"]),
            }
            for record in records
        ],
    }


def format_study(result: Mapping[str, Any]) -> str:
    """The headline metrics as Markdown tables, one per decoding: the base model first, then the arms.

    Shares are printed in percent; ↓ and ↑ say which way is better.

    Args:
        result: What `summarise` returns.
    """
    seeds, confidence = result["settings"]["seeds"], result["settings"]["confidence"]
    many = f"Means ± standard deviation over seeds {', '.join(map(str, seeds))}; the base model has one value."
    lines = [
        f"{many if len(seeds) > 1 else f'One run per arm, seed {seeds[0]}.'} "
        f"{confidence:.0%} intervals over seeds (Student's t) and of each row (paired bootstrap) are in the artifact."
    ]
    for decoding, known in result["base"][0]["metrics"].items():
        names = [name for name in HEADLINE if name in known]
        rows = [("arm", *(ROW_TITLES[name] for name in names))]
        for base in result["base"]:
            title = "base" if len(result["base"]) == 1 else f"base of {', '.join(base['arms'])}"
            metrics = base["metrics"].get(decoding, {})
            rows.append((title, *(_cell(name, metrics.get(name), "value") for name in names)))
        for arm, means in result["arms"].items():
            metrics = means["aligned"].get(decoding, {})
            rows.append((arm, *(_cell(name, metrics.get(name), "mean") for name in names)))
        lines += ["", f"{decoding} decoding", "", *markdown_table(rows)]
    return "\n".join(lines)


def _cell(name: str, summary: Mapping[str, float | None] | None, key: str) -> str:
    if summary is None or summary[key] is None:
        return "–"
    scale, digits = (100, 1) if "%" in ROW_TITLES[name] else (1, 2)
    std = summary.get("std")
    spread = "" if std is None else f" ± {std * scale:.{digits}f}"
    return f"{summary[key] * scale:.{digits}f}{spread}"
