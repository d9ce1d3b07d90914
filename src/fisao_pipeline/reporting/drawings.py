"""Charts of a page: matplotlib draws them, and what it writes becomes plain SVG in the page's own colours.

Colours are names of the page's CSS variables, so that a chart follows the page from light to dark; text is text. No
style attribute and no style element is left, since the page's policy forbids them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

SIZE = (4.8, 2.9)  # inches at 72 pixels
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# What matplotlib is told to paint with, since it knows no variables; any distinct colours do.
_PAINTS = {
    name: f"#{number:06x}"
    for number, name in enumerate(("blue", "vermilion", "grey", "green", "ink", "soft", "line"), 1)
}
_VARIABLES = {paint: f"var(--{name})" for name, paint in _PAINTS.items()}
_KEPT = re.compile(
    r"fill|fill-opacity|stroke|stroke-opacity|stroke-width|stroke-dasharray|stroke-linecap|opacity|text-anchor|font-size"
)
_LONG = re.compile(r"-?\d+\.\d{2,}")


@dataclass(frozen=True)
class Steps:
    """A histogram: heights between edges, filled."""

    edges: Sequence[float]
    heights: Sequence[float]
    colour: str
    label: str


@dataclass(frozen=True)
class Line:
    """A curve; with ``marked`` its points are marked too."""

    x: Sequence[float]
    y: Sequence[float]
    colour: str
    label: str
    dashed: bool = False
    marked: bool = False


@dataclass(frozen=True)
class Points:
    """A cloud of points."""

    x: Sequence[float]
    y: Sequence[float]
    colour: str
    label: str = ""


@dataclass(frozen=True)
class Rule:
    """A vertical line with its name at the top; levels keep neighbouring names apart."""

    x: float
    label: str
    colour: str = "ink"
    level: int = 0


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: What it shows.
        x_title: Of the horizontal axis.
        y_title: Of the vertical axis.
        series: Drawn in this order.
        rules: Vertical lines.
        notes: Lines of text under the title, such as a measure of what is shown.
        from_zero: Whether the vertical axis begins at zero.
        integers: Whether the horizontal axis counts something.
    """

    title: str
    x_title: str
    y_title: str
    series: Sequence[Steps | Line | Points]
    rules: Sequence[Rule] = ()
    notes: Sequence[str] = ()
    from_zero: bool = True
    integers: bool = False

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """Of every series that has a label: colour, label, and whether it is an `area`, a `line` or `dashed`."""
        return [(one.colour, one.label, _kind(one)) for one in self.series if one.label]


def _kind(one: Steps | Line | Points) -> str:
    if isinstance(one, Line):
        return "dashed" if one.dashed else "line"
    return "area"


def panel_svg(panel: Panel, key: str) -> Markup:
    """The chart as an SVG element that scales with the page; what it shows is its accessible name.

    Args:
        panel: What to draw.
        key: Distinct for each chart of a page: letters, digits and `-`. Ids within the chart begin with it.
    """
    import matplotlib as mpl  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    settings = {"svg.fonttype": "none", "svg.hashsalt": key, "font.size": 10, "text.parse_math": False}
    with mpl.rc_context(settings):
        figure = Figure(figsize=SIZE, dpi=72, layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        for one in panel.series:
            _draw(axes, one)
        if panel.from_zero:
            # Zero as if it were data, so that there is a margin at the top but none at the bottom.
            axes.update_datalim([(axes.dataLim.x0, 0.0)])
            axes.autoscale_view()
            axes.set_ylim(bottom=0)
        if panel.integers:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_xlabel(panel.x_title, color=_PAINTS["soft"])
        axes.set_ylabel(panel.y_title, color=_PAINTS["soft"])
        axes.tick_params(colors=_PAINTS["soft"], length=0, labelsize=9.5)
        axes.grid(axis="y", color=_PAINTS["line"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "left", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(_PAINTS["soft"])
        _rule(axes, panel.rules)
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    name = f"{panel.title}: {panel.y_title} over {panel.x_title}"
    return _plain_svg(written.getvalue(), name, f"{key}-")


def _draw(axes, one: Steps | Line | Points) -> None:
    paint = _PAINTS[one.colour]
    if isinstance(one, Steps):
        axes.stairs(one.heights, one.edges, fill=True, facecolor=paint, alpha=0.28, linewidth=0)
        axes.stairs(one.heights, one.edges, edgecolor=paint, linewidth=1.6)
    elif isinstance(one, Line):
        style = {"linestyle": (0, (4, 2.5)) if one.dashed else "-", "marker": "o" if one.marked else None}
        axes.plot(one.x, one.y, color=paint, linewidth=2, markersize=4.5, **style)
    else:
        axes.plot(one.x, one.y, color=paint, linestyle="none", marker="o", markersize=3, markeredgewidth=0, alpha=0.4)


def _rule(axes, rules: Sequence[Rule]) -> None:
    for rule in rules:
        axes.axvline(rule.x, color=_PAINTS[rule.colour], linewidth=1.2, linestyle=(0, (3, 2)))
        axes.annotate(
            rule.label,
            (rule.x, 1),
            (0, 2 + 11 * rule.level),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=_PAINTS[rule.colour],
            fontsize=9.5,
        )


def _plain_svg(written: bytes, name: str, prefix: str) -> Markup:
    """Matplotlib's file as an element: no metadata, styles as attributes, ids of its own, colours as variables."""
    root = ElementTree.fromstring(written)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")  # which a page knows by itself
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {"metadata", "style"}:
                parent.remove(child)
    used = {
        match
        for element in root.iter()
        for value in element.attrib.values()
        for match in re.findall(r"#([\w-]+)", value)
    }
    for element in root.iter():
        _plain_element(element, prefix, used)
    view = root.get("viewBox", "0 0 100 100")
    root.attrib.clear()
    root.attrib.update({"viewBox": view, "class": "chart", "role": "img", "aria-label": name})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _plain_element(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    attributes = {key.replace(f"{{{_XLINK}}}", ""): value for key, value in element.attrib.items()}
    style = dict(part.split(": ", 1) for part in attributes.pop("style", "").split("; ") if ": " in part)
    if "font" in style:
        style["font-size"] = re.search(r"[\d.]+px", style["font"]).group()
    attributes |= {key: value.rstrip(";") for key, value in style.items() if _KEPT.fullmatch(key)}
    if attributes.get("id") in used:
        attributes["id"] = prefix + attributes["id"]
    else:
        attributes.pop("id", None)
    if "href" in attributes:
        attributes["href"] = f"#{prefix}{attributes['href'].removeprefix('#')}"
    if "clip-path" in attributes:
        attributes["clip-path"] = attributes["clip-path"].replace("#", f"#{prefix}")
    for key, value in attributes.items():
        if key not in {"id", "href", "clip-path"}:
            attributes[key] = _VARIABLES.get(value, _LONG.sub(lambda found: f"{float(found.group()):.1f}", value))
    element.attrib.clear()
    element.attrib.update(attributes)
