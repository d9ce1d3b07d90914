"""Charts are plain SVG: what they show is there, in the page's colours, with nothing that the page's policy forbids."""

import re
from xml.etree import ElementTree

import pytest

from fisao_pipeline.reporting.drawings import Line, Panel, Points, Rule, Steps, panel_svg

PANEL = Panel(
    "Scores of <b>",
    "score",
    "density",
    [
        Steps([0, 1, 2, 3], [1, 4, 2], "blue", "correct"),
        Line([0, 1, 2], [3, 2, 1], "vermilion", "fitted", dashed=True, marked=True),
        Points([0.5, 1.5], [1, 2], "green"),
    ],
    [Rule(1.5, "threshold & more", "ink")],
)
COLOURS = {"blue", "vermilion", "green", "ink", "soft", "line"}


def elements(svg):
    return list(ElementTree.fromstring(svg).iter())


def test_it_shows_what_it_was_given():
    svg = panel_svg(PANEL, "one")
    texts = {element.text for element in elements(svg) if element.text and element.text.strip()}
    assert {"score", "density", "threshold & more"} <= texts
    assert {f"var(--{name})" for name in COLOURS} == set(re.findall(r"var\(--\w+\)", svg))
    (root, *_) = elements(svg)
    assert root.attrib["role"] == "img" and root.attrib["aria-label"] == "Scores of <b>: density over score"
    assert PANEL.legend == [("blue", "correct", "area"), ("vermilion", "fitted", "dashed")]


def test_nothing_in_it_needs_a_style_or_a_request():
    svg = panel_svg(PANEL, "one")
    assert not [e for e in elements(svg) if "style" in e.attrib or e.tag.endswith(("style", "metadata", "script"))]
    assert not re.search(r"#0{3}", svg), "no colour of matplotlib's is left"
    references = re.findall(r"(?:href=\"|url\()#([\w-]+)", svg)
    ids = [e.attrib["id"] for e in elements(svg) if "id" in e.attrib]
    assert references and set(references) <= set(ids)
    assert len(ids) == len(set(ids))


def test_charts_of_one_page_share_no_id_and_the_same_chart_is_the_same():
    one, other = panel_svg(PANEL, "one"), panel_svg(PANEL, "other")
    assert one == panel_svg(PANEL, "one")
    ids = [{e.attrib["id"] for e in elements(svg) if "id" in e.attrib} for svg in (one, other)]
    assert all(ids) and not ids[0] & ids[1]


@pytest.mark.parametrize("from_zero", [True, False])
def test_the_axis_begins_at_zero_where_that_is_meant(from_zero):
    svg = panel_svg(Panel("t", "x", "y", [Line([0, 1], [50, 60], "blue", "")], from_zero=from_zero), "k")
    labels = {e.text for e in elements(svg) if e.tag.endswith("text")}
    assert ("0" in labels - {"0.0"}) == from_zero
