"""What all figures share: colours that colour-blind readers tell apart, layout, histograms, the empty figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

# Okabe and Ito's palette; blue against vermilion is also the page's diverging scale.
BLUE, VERMILION, GREY, GREEN, INK = "#0072B2", "#D55E00", "#8A8A8A", "#009E73", "#333333"
CORRECT, HALLUCINATED, UNLABELLED = BLUE, VERMILION, GREY
BASE, ALIGNED = GREY, GREEN
# The same on a page, whose style sheet says what each is in light and in dark.
PAGE_COLOURS = {BLUE: "blue", VERMILION: "vermilion", GREY: "grey", GREEN: "green", INK: "ink"}


def laid_out(figure: go.Figure, title: str, note: str = "", *, height: int = 460, top: int = 110) -> go.Figure:
    """The figure with the common layout: title, what is to be known of it as a subtitle, legend below (sizes in px)."""
    return figure.update_layout(
        template="plotly_white",
        title={
            "text": title,
            "subtitle": {"text": note},
            "x": 0.02,
            "xanchor": "left",
            "y": 1.0,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 18},
        },
        legend={"orientation": "h", "yanchor": "top", "y": -0.18, "x": 0},
        margin={"l": 70, "r": 30, "t": top, "b": 90},
        bargap=0,
        barmode="overlay",
        height=height,
        font={"size": 13},
    )


def empty_figure(title: str, why: str) -> go.Figure:
    """A figure that says why there is nothing to see."""
    figure = laid_out(go.Figure(), title)
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure.add_annotation(
        text=why, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 15, "color": INK}
    )


def bin_edges(values: Sequence[float], bins: int) -> np.ndarray:
    """Edges of ``bins`` equal bins over the values' range, as `overlap_coefficient` has them; one value is widened."""
    array = np.asarray(values, dtype=np.float64)
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def histogram(
    values: Sequence[float], edges: np.ndarray, name: str, colour: str, *, weight: float, opacity: float = 0.6
) -> go.Bar:
    """Bars of ``weight`` times the number of values in each bin; plain lists, which every plotly.js reads."""
    counts, _ = np.histogram(np.asarray(values, dtype=np.float64), edges)
    return go.Bar(
        x=((edges[:-1] + edges[1:]) / 2).tolist(),
        y=(counts * weight).tolist(),
        name=name,
        marker={"color": colour, "line": {"width": 0}},
        opacity=opacity,
        hovertemplate="%{x:.3f}: %{y:.3g}<extra>" + name + "</extra>",
    )


def vertical(figure: go.Figure, x: float, text: str, colour: str, *, col: int, level: int = 0) -> None:
    """A dashed line over the height of the panel with its name above it; levels keep neighbouring names apart."""
    figure.add_vline(x=x, line={"color": colour, "width": 1.6, "dash": "dash"}, row=1, col=col)
    named = {"text": text, "font": {"size": 11, "color": colour}, "showarrow": False}
    figure.add_annotation(x=x, y=1.0, yref="y domain", yanchor="bottom", yshift=1 + 14 * level, row=1, col=col, **named)
