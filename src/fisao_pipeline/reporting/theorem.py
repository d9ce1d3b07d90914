"""Theorem 3.1 as a table and a figure: expected loss against the weight of the vision feedback, and the control."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch

from fisao_pipeline.method.linear_gaussian import LinearGaussianModel, draw_model, feedback_power, missed_and_seen
from fisao_pipeline.method.vision_feedback import (
    Tuning,
    best_vision_weight,
    expected_loss,
    loss_slope_at_zero,
    simulated_loss,
)
from fisao_pipeline.params.theorem import TheoremParams

# Relevance of the feedback image: the response's own one, or that of another, independent draw.
RELEVANCE = {"informative": 1.0, "control": 0.0}
_COLOURS = {"informative": "seagreen", "control": "firebrick"}
_TITLES = {"informative": "feedback from the image itself", "control": "control: from another image"}


def theorem_curves(params: TheoremParams) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Draw one model and follow its loss along a grid of vision weights, in closed form and by simulation.

    Returns:
        One row per feedback and vision weight: `feedback`, `vision_weight`, `expected_loss`, `simulated_loss`,
        `standard_error`; and the numbers of the theorem: c, q, the loss without feedback, and for each feedback the
        slope at zero, the best weight, the loss there and its difference to no feedback.
    """
    generator = torch.Generator().manual_seed(params.seed)
    model = draw_model(
        (params.response_features, params.image_features, params.text_features),
        ignored_share=params.ignored_share,
        image_text_correlation=params.image_text_correlation,
        verifier_error=params.verifier_error,
        noise_std=params.noise_std,
        policy_std=params.policy_std,
        generator=generator,
    )
    tuning = Tuning(params.kl_coef, params.self_weight)
    weights = torch.linspace(0, params.max_vision_weight, params.vision_weights, dtype=torch.float64)
    curves = []
    for feedback, relevance in RELEVANCE.items():
        simulated = simulated_loss(model, weights, tuning, params.samples, generator, relevance)
        columns = {
            "vision_weight": weights,
            "expected_loss": expected_loss(model, weights, tuning, relevance),
            "simulated_loss": simulated.mean,
            "standard_error": simulated.standard_error,
        }
        curves.append(pd.DataFrame({"feedback": feedback, **{name: x.numpy() for name, x in columns.items()}}))
    return pd.concat(curves, ignore_index=True), _summary(model, tuning)


def theorem_figure(curves: pd.DataFrame, summary: dict[str, Any]) -> go.Figure:
    """Lines in closed form, simulated points with bars of two standard errors, the loss without feedback as a level."""
    figure = go.Figure()
    for feedback, curve in curves.groupby("feedback", sort=False):
        colour = _COLOURS[str(feedback)]
        figure.add_scatter(
            x=curve["vision_weight"],
            y=curve["expected_loss"],
            mode="lines",
            line_color=colour,
            name=_TITLES[str(feedback)],
        )
        figure.add_scatter(
            x=curve["vision_weight"],
            y=curve["simulated_loss"],
            error_y={"type": "data", "array": 2 * curve["standard_error"]},
            mode="markers",
            marker={"color": colour, "size": 5},
            name="simulated, ± 2 standard errors",
        )
    figure.add_hline(summary["loss_at_zero"], line_dash="dash", line_color="grey", annotation_text="no vision feedback")
    best = summary["informative"]["best_vision_weight"]
    if 0 < best <= curves["vision_weight"].max():
        figure.add_vline(best, line_dash="dot", line_color="grey", annotation_text="lowest loss")
    figure.update_layout(
        title="Theorem 3.1 in a linear-Gaussian model of this project",
        xaxis_title="weight λ of the vision feedback",
        yaxis_title="expected loss E‖y − y*‖²",
        template="plotly_white",
    )
    return figure


def _summary(model: LinearGaussianModel, tuning: Tuning) -> dict[str, Any]:
    at_zero = _loss_at(model, 0.0, tuning, 1.0)
    summary: dict[str, Any] = {
        "missed_and_seen": missed_and_seen(model).item(),
        "feedback_power": feedback_power(model).item(),
        "loss_at_zero": at_zero,
    }
    for feedback, relevance in RELEVANCE.items():
        best = best_vision_weight(model, tuning, relevance).item()
        lowest = _loss_at(model, best, tuning, relevance)
        summary[feedback] = {
            "slope_at_zero": loss_slope_at_zero(model, tuning, relevance).item(),
            "best_vision_weight": best,
            "lowest_loss": lowest,
            "change": lowest - at_zero,
        }
    return summary


def _loss_at(model: LinearGaussianModel, weight: float, tuning: Tuning, relevance: float) -> float:
    return expected_loss(model, torch.tensor([weight], dtype=torch.float64), tuning, relevance).item()
