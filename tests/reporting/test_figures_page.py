"""All figures on one page, plotly's code in it once."""

import plotly.graph_objects as go

from fisao_pipeline.reporting.figures_page import figures_page


def test_every_figure_is_there_and_plotly_once():
    figures = [go.Figure(layout={"title": {"text": f"Title number {n}"}}) for n in range(3)]
    page = figures_page(figures)
    one = figures_page(figures[:1])
    for number in range(3):
        assert f"Title number {number}" in page
        assert f'id="figure-{number + 1}"' in page
    assert len(page) - len(one) < 50_000, "plotly's code is megabytes"
    assert len(one) > 1_000_000, "it is in the page, not fetched"
