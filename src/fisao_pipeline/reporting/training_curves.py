"""What happened in training, round by round: rewards and their terms, the probe, the optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fisao_pipeline.reporting.drawings import Line, Panel, Rule


@dataclass(frozen=True)
class _Curve:
    """Columns of `training_history` that are drawn in one panel: column, label, colour, dashed."""

    title: str
    y_title: str
    lines: Sequence[tuple[str, str, str, bool]]
    scale: float = 1.0
    from_zero: bool = False


# A panel of which the trainer keeps none of the columns is left out.
_CURVES = (
    _Curve(
        "Made-up objects on the probe",
        "CHAIR_i, %",
        (("probe_chair_i", "greedy", "green", False), ("probe_sampled_chair_i", "sampled", "green", True)),
        100,
        True,
    ),
    _Curve(
        "Objects of the picture that are named",
        "recall, %",
        (("probe_recall", "greedy", "green", False), ("probe_sampled_recall", "sampled", "green", True)),
        100,
    ),
    _Curve(
        "Reward per answer",
        "reward",
        (
            ("token_reward", "of the round's rollouts", "blue", False),
            ("probe_reward", "of the probe, greedy", "green", False),
            ("probe_sampled_reward", "of the probe, sampled", "green", True),
        ),
    ),
    _Curve(
        "Distance from the base model",
        "KL, nats per answer",
        (("kl", "log-ratio (k1)", "grey", True), ("kl_k3", "k3, never negative", "blue", False)),
    ),
    _Curve("Length of the rollouts", "tokens per answer", (("response_tokens", "", "blue", False),), from_zero=True),
    _Curve(
        "Objects per answer",
        "objects",
        (("probe_objects", "greedy", "green", False), ("probe_sampled_objects", "sampled", "green", True)),
        from_zero=True,
    ),
    _Curve(
        "Losses",
        "mean of the round's steps",
        (
            ("policy_loss", "policy", "blue", False),
            ("value_loss", "value", "vermilion", False),
            ("kl_loss", "KL", "grey", True),
            ("dpo_loss", "DPO", "blue", False),
            ("sft_loss", "fine-tuning on the chosen", "blue", False),
        ),
    ),
    _Curve(
        "Clipped steps",
        "% of tokens",
        (("clip_fraction", "", "blue", False),),
        100,
        True,
    ),
)


def training_panels(history: pd.DataFrame) -> list[Panel]:
    """A panel for each group of curves that a `training_history` holds; the round that was kept is marked.

    Round −1 is before training, where only the probe is known.
    """
    kept = history.loc[history["kept"].astype(bool), "round"].tolist()
    rules = [Rule(float(number), "kept") for number in kept]
    panels = []
    for curve in _CURVES:
        series = [
            Line(x, y, colour, label, dashed, marked=True)
            for column, label, colour, dashed in curve.lines
            for x, y in [_known(history, column, curve.scale)]
            if x
        ]
        if series:
            panels.append(
                Panel(curve.title, "round", curve.y_title, series, rules, from_zero=curve.from_zero, integers=True)
            )
    return panels


def _known(history: pd.DataFrame, column: str, scale: float) -> tuple[list[float], list[float]]:
    if column not in history:
        return [], []
    rows = history[["round", column]].dropna()
    return rows["round"].tolist(), (rows[column] * scale).tolist()
