"""All figures of a run on one page that opens without any server."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import plotly.io as pio

_HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Figures of the run</title>'
    "<style>body{max-width:76rem;margin:0 auto;padding:1rem;font-family:system-ui,sans-serif;background:#fff}</style>"
    "</head><body>"
)


def figures_page(figures: Sequence[go.Figure]) -> str:
    """HTML with the figures one below the other and plotly's own code in it once, so that it works offline."""
    parts = [
        pio.to_html(figure, full_html=False, include_plotlyjs=index == 0, div_id=f"figure-{index + 1}")
        for index, figure in enumerate(figures)
    ]
    return _HEAD + "\n".join(parts) + "</body></html>\n"
