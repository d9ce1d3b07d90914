"""Figure 4: rewards of the objects that the model names, before and after training."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fisao_pipeline.reporting.style import ALIGNED, BASE, INK, bin_edges, empty_figure, histogram, laid_out

TITLE = "Rewards of generated objects before and after training"
DECODINGS = ("greedy", "sampled", "beam")
MODELS = {"base": BASE, "aligned": ALIGNED}


def reward_shift_figure(mentions: pd.DataFrame, captions: Mapping[tuple[str, str], int], bins: int) -> go.Figure:
    """One panel per decoding: how many mentions per 100 captions earn what.

    Counts per caption and not densities, so that a model that names less is seen to name less.

    Args:
        mentions: The ``prediction_mentions`` table.
        captions: Number of captions of each (model, decoding), those without a mention included.
        bins: Of the histograms.
    """
    if mentions.empty:
        return empty_figure(TITLE, "Neither model names an object of the vocabulary.")
    decodings = [name for name in DECODINGS if any(captions.get((model, name)) for model in MODELS)]
    titles = [f"{decoding}<br>{_caption(mentions, captions, decoding)}" for decoding in decodings]
    figure = make_subplots(
        rows=1, cols=len(decodings), subplot_titles=titles, horizontal_spacing=0.08, shared_yaxes=True
    )
    figure.update_annotations(yshift=10, font={"size": 13})
    edges = bin_edges(mentions["reward"].tolist(), bins)
    for column, decoding in enumerate(decodings, start=1):
        for model, colour in MODELS.items():
            rewards = _rewards(mentions, model, decoding)
            if captions.get((model, decoding)):
                weight = 100 / captions[model, decoding]
                bars = histogram(rewards.tolist(), edges, model, colour, weight=weight, opacity=0.9)
                figure.add_trace(bars.update(legendgroup=model, showlegend=column == 1), row=1, col=column)
        figure.add_vline(x=0, line={"color": INK, "width": 1}, row=1, col=column)
        figure.update_xaxes(title_text="reward of a mention", row=1, col=column)
    figure.update_yaxes(title_text="mentions per 100 captions", col=1)
    note = "Held-out captions; rewards by the run's rule and baseline, so they show what was trained for, not the truth"
    return laid_out(figure, TITLE, note, height=520, top=165).update_layout(barmode="group", bargap=0.1)


def _rewards(mentions: pd.DataFrame, model: str, decoding: str) -> pd.Series:
    return mentions.loc[mentions["model"].eq(model) & mentions["decoding"].eq(decoding), "reward"]


def _caption(mentions: pd.DataFrame, captions: Mapping[tuple[str, str], int], decoding: str) -> str:
    parts = []
    for model in MODELS:
        rewards, count = _rewards(mentions, model, decoding), captions.get((model, decoding), 0)
        if count and len(rewards):
            parts.append(
                f"{model}: mean {rewards.mean():+.2f}, {rewards.lt(0).mean():.0%} negative, "
                f"{len(rewards) / count:.2f} per caption"
            )
        else:
            parts.append(f"{model}: no mention")
    return "<br>".join(parts)
