"""Figure 1: do scores of single mentions tell correct from hallucinated, and do scores of whole responses?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from fisao_pipeline.method.calibration import FITTED_MODES, Baseline, auroc, overlap_coefficient, overlap_of_normals
from fisao_pipeline.reporting.style import (
    CORRECT,
    GREEN,
    HALLUCINATED,
    INK,
    UNLABELLED,
    bin_edges,
    empty_figure,
    histogram,
    laid_out,
    vertical,
)

TITLE = "Verifier scores of correct and of hallucinated objects"
MENTION_CLASSES = {"correct": CORRECT, "hallucinated": HALLUCINATED}
RESPONSE_CLASSES = {"clean": CORRECT, "hallucinating": HALLUCINATED}


def separation(scores: pd.DataFrame, classes: Iterable[str], bins: int) -> dict[str, float]:
    """``auroc`` and ``overlap`` of the two classes of a table with ``score`` and ``label``; empty if one is missing."""
    first, second = (
        torch.tensor(scores.loc[scores["label"].eq(name).fillna(False), "score"].tolist()).double() for name in classes
    )
    if not len(first) or not len(second):
        return {}
    return {"auroc": auroc(first, second), "overlap": overlap_coefficient(first, second, bins)}


def separations(mentions: pd.DataFrame, response_scores: pd.DataFrame, bins: int) -> dict[str, float]:
    """``token.auroc``, ``token.overlap``, ``sentence.auroc``, ``sentence.overlap``; only those that labels allow."""
    tokens, sentences = calibration_scores(mentions, response_scores)
    levels = {"token": (tokens, MENTION_CLASSES), "sentence": (sentences, RESPONSE_CLASSES)}
    return {
        f"{level}.{name}": value
        for level, (scores, classes) in levels.items()
        for name, value in separation(scores, classes, bins).items()
    }


def calibration_scores(mentions: pd.DataFrame, response_scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``score`` and ``label`` of the calibration split's mentions, and of its whole responses."""
    tokens = mentions.loc[mentions["split"] == "calibration", ["score", "label"]]
    sentences = response_scores.rename(columns={"sentence_score": "score"})
    return tokens, sentences.loc[sentences["split"] == "calibration", ["score", "label"]]


def score_distributions_figure(
    mentions: pd.DataFrame,
    response_scores: pd.DataFrame,
    baseline: Baseline,
    thresholds: tuple[float, float],
    sentence_mean: float,
    bins: int,
) -> go.Figure:
    """Token level beside sentence level, calibration split only.

    Args:
        mentions: The ``object_mentions`` table.
        response_scores: The ``response_scores`` table.
        baseline: μ_cor, μ_hal, their spread and the mixing weight.
        thresholds: Scores below which a mention costs and above which it earns.
        sentence_mean: Score at which the sentence-level reward is zero.
        bins: Of both histograms, and of the overlap coefficient.
    """
    tokens, sentences = calibration_scores(mentions, response_scores)
    if tokens.empty and sentences.empty:
        return empty_figure(TITLE, "No calibration response was scored.")
    titles = (
        f"Token level: object mentions<br>{_token_caption(tokens, baseline, bins)}",
        f"Sentence level: whole responses<br>{_caption(sentences, RESPONSE_CLASSES, bins)}",
    )
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.1)
    figure.update_annotations(yshift=34, font={"size": 13})
    _draw(figure, 1, tokens, MENTION_CLASSES, "mentions", bins)
    _draw(figure, 2, sentences, RESPONSE_CLASSES, "responses", bins)
    if not separation(tokens, MENTION_CLASSES, bins):
        _draw_components(figure, tokens, baseline)
    vertical(figure, baseline.hallucinated.mean, "μ_hal", HALLUCINATED, col=1)
    vertical(figure, baseline.correct.mean, "μ_cor", CORRECT, col=1)
    low, high = thresholds
    for x, name in [(low, "threshold")] if low == high else [(low, "costs below"), (high, "earns above")]:
        vertical(figure, x, name, INK, col=1, level=1)
    vertical(figure, sentence_mean, "mean", INK, col=2)
    figure.update_xaxes(title_text="cosine S").update_yaxes(title_text="density", col=1)
    note = f"Calibration split, baseline {baseline.mode}"
    if separations(mentions, response_scores, bins):
        note += f"; overlap of labelled classes is the common area of their two histograms ({bins} bins)"
    return laid_out(figure, TITLE, note, height=540, top=165)


def _caption(scores: pd.DataFrame, classes: Iterable[str], bins: int) -> str:
    found = separation(scores, classes, bins)
    if not found:
        return f"n = {len(scores)}, no labels of both kinds: no AUROC"
    return f"AUROC {found['auroc']:.3f}, overlap {found['overlap']:.3f}"


def _token_caption(tokens: pd.DataFrame, baseline: Baseline, bins: int) -> str:
    if separation(tokens, MENTION_CLASSES, bins) or baseline.mode not in FITTED_MODES:
        return _caption(tokens, MENTION_CLASSES, bins)
    overlap = overlap_of_normals(baseline.gap, baseline.pooled_std)
    return f"n = {len(tokens)}; fitted, not measured: AUROC {baseline.auroc:.3f}, overlap {overlap:.3f}"


def _draw(
    figure: go.Figure, column: int, scores: pd.DataFrame, classes: dict[str, str], things: str, bins: int
) -> None:
    """Each class as a density of its own; without labels of both classes everything as one."""
    edges = bin_edges(scores["score"].tolist(), bins)
    shown = {name: scores.loc[scores["label"].eq(name).fillna(False), "score"].tolist() for name in classes}
    colours = classes
    if not all(shown.values()):
        shown, colours = {"all": scores["score"].tolist()}, {"all": UNLABELLED}
    for name, values in shown.items():
        if values:
            label = f"{name} {things} (n = {len(values)})"
            weight = 1 / (len(values) * (edges[1] - edges[0]))
            figure.add_trace(histogram(values, edges, label, colours[name], weight=weight), row=1, col=column)


def _draw_components(figure: go.Figure, tokens: pd.DataFrame, baseline: Baseline) -> None:
    """Densities of the baseline's two components, each times its share of the mentions, and their sum."""
    centres = [baseline.hallucinated.mean, baseline.correct.mean]
    reach = [*tokens["score"].tolist(), *(c + k * baseline.pooled_std for c in centres for k in (-2.5, 2.5))]
    x = np.linspace(min(reach), max(reach), 201)
    weight, std = baseline.mixing_weight, baseline.pooled_std
    kind = "fitted" if baseline.mode in FITTED_MODES else "assumed"
    for mean, share, name, colour in (
        (centres[1], weight, f"{kind} component: correct", CORRECT),
        (centres[0], 1 - weight, f"{kind} component: hallucinated", HALLUCINATED),
        (None, 1.0, "both components", GREEN),
    ):
        y = (
            share * _normal(x, mean, std)
            if mean is not None
            else (weight * _normal(x, centres[1], std) + (1 - weight) * _normal(x, centres[0], std))
        )
        line = {"color": colour, "width": 2, "dash": "dot" if mean is None else "solid"}
        figure.add_trace(go.Scatter(x=x.tolist(), y=y.tolist(), name=name, mode="lines", line=line), row=1, col=1)


def _normal(x: np.ndarray, mean: float, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
