"""Curves of a training history: those that its trainer keeps, and the round that was kept."""

import pandas as pd
from tests.reporting.report_sources import history

from fisao_pipeline.reporting.training_curves import training_panels


def test_curves_with_the_kept_round():
    made = {panel.title: panel for panel in training_panels(history())}
    assert list(made) == [
        "Made-up objects on the probe",
        "Objects of the picture that are named",
        "Reward per answer",
        "Distance from the base model",
    ]
    probe, reward = made["Made-up objects on the probe"], made["Reward per answer"]
    (line,) = probe.series
    assert (line.x, line.y) == ([-1, 0, 1], [40, 20, 10])
    assert reward.series[0].x == [0, 1], "before training there are no rollouts"
    assert [(rule.x, rule.label) for panel in made.values() for rule in panel.rules] == [(1, "kept")] * 4


def test_another_trainers_losses():
    table = pd.DataFrame({"round": [0.0, 1.0], "dpo_loss": [0.7, 0.6], "kept": [False, True]})
    (panel,) = training_panels(table)
    assert [(line.label, line.y) for line in panel.series] == [("DPO", [0.7, 0.6])]
