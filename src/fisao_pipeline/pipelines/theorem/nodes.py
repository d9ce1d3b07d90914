"""Nodes of `theorem`."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd

from fisao_pipeline.params.theorem import TheoremParams

logger = logging.getLogger(__name__)


def trace_theorem_curves(params: TheoremParams) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Expected loss against the weight of the vision feedback, informative and control, and the theorem's numbers."""
    from fisao_pipeline.reporting.theorem import theorem_curves  # noqa: PLC0415 - slow to import

    curves, summary = theorem_curves(params)
    logger.info(
        "Expected loss without vision feedback %.3f, lowest %.3f with it and %.3f in the control",
        summary["loss_at_zero"],
        summary["informative"]["lowest_loss"],
        summary["control"]["lowest_loss"],
    )
    return curves, summary


def draw_theorem_figure(curves: pd.DataFrame, summary: dict[str, Any]) -> Any:
    """The curves as a plotly figure."""
    from fisao_pipeline.reporting.theorem import theorem_figure  # noqa: PLC0415 - slow to import

    return theorem_figure(curves, summary)
