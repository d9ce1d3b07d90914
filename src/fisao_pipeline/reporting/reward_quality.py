"""Figure 2: rewards against the likeness of a response to reference captions."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fisao_pipeline.reporting.style import BLUE, VERMILION, empty_figure, laid_out

TITLE = "Rewards against likeness to reference captions"
REWARDS = {
    "sentence_reward": ("Sentence level: cosine of the whole response", VERMILION),
    "token_reward": ("Token level: sum of the token rewards", BLUE),
}
QUALITIES = {"bleu": "BLEU", "rouge_l": "ROUGE-L"}


def reward_quality_figure(
    points: pd.DataFrame, correlations: pd.DataFrame, implementation: str, confidence: float, max_points: int
) -> go.Figure:
    """Four panels: each reward against BLEU and against ROUGE-L, with Pearson's r and its interval.

    Args:
        points: ``sentence_reward``, ``token_reward`` (empty where the run has none), ``bleu``, ``rouge_l``.
        correlations: ``reward``, ``quality``, ``r``, ``low``, ``high``, ``n``.
        implementation: Which BLEU and ROUGE-L these are.
        confidence: Coverage of the intervals.
        max_points: Drawn at most, evenly picked in the table's order; r is of all.
    """
    if points.empty:
        return empty_figure(TITLE, "No image of the calibration split has reference captions.")
    cells = [(reward, quality) for quality in QUALITIES for reward in REWARDS]
    found = {(row.reward, row.quality): row for row in correlations.itertuples()}
    figure = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=[_caption(found[cell]) for cell in cells],
        horizontal_spacing=0.09,
        vertical_spacing=0.16,
    )
    drawn = points.iloc[:: -(-len(points) // max_points)]
    for index, (reward, quality) in enumerate(cells):
        place = {"row": index // 2 + 1, "col": index % 2 + 1}
        shown = drawn[[reward, quality]].dropna()
        title, colour = REWARDS[reward]
        figure.add_trace(
            go.Scatter(
                x=shown[reward].astype("float64").round(5).tolist(),
                y=shown[quality].round(5).tolist(),
                mode="markers",
                marker={"size": 5, "color": colour, "opacity": 0.35},
                hovertemplate="reward %{x:.3f}, " + QUALITIES[quality] + " %{y:.3f}<extra></extra>",
                showlegend=False,
            ),
            **place,
        )
        figure.update_xaxes(title_text=title, **place).update_yaxes(title_text=QUALITIES[quality], **place)
    note = (
        f"Pearson's r with {confidence:.0%} bootstrap interval over images; {len(points)} calibration responses, "
        f"{len(drawn)} drawn<br>{implementation.replace('. ROUGE', '.<br>ROUGE')}"
    )
    return laid_out(figure, TITLE, note, height=840, top=165)


def _caption(row: tuple) -> str:
    if row.n == 0:
        return "this run has no token-level rewards"
    if pd.isna(row.r):
        return f"r undefined: no spread (n = {row.n})"
    interval = "" if pd.isna(row.low) else f" [{row.low:.3f}, {row.high:.3f}]"
    return f"r = {row.r:.3f}{interval}"
