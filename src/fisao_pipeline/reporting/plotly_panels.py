"""The plotly figures of this project as panels of a page: one definition of a figure, in Kedro-Viz and on paper."""

from __future__ import annotations

import plotly.graph_objects as go

from fisao_pipeline.reporting.drawings import Line, Panel, Points, Rule, Steps
from fisao_pipeline.reporting.style import PAGE_COLOURS


def panels(figure: go.Figure) -> list[Panel]:
    """One panel per pair of axes, in the order of the traces; none where the figure is empty.

    Bars, lines, markers, vertical lines and their names are taken over: what the figures of `reporting` consist of.
    """
    by_axes: dict[tuple[str, str], list[go.Bar | go.Scatter]] = {}
    for trace in figure.data:
        by_axes.setdefault((trace.xaxis or "x", trace.yaxis or "y"), []).append(trace)
    captions = [note.text for note in figure.layout.annotations if note.xref == "paper"]
    return [_panel(figure, axes, traces, captions, i) for i, (axes, traces) in enumerate(by_axes.items())]


def reason(figure: go.Figure) -> str:
    """Why a figure is empty, as it says itself."""
    return " ".join(note.text for note in figure.layout.annotations)


def notes(figure: go.Figure) -> str:
    """What is to be known of all panels: the figure's subtitle, in sentences."""
    lines = (figure.layout.title.subtitle.text or "").split("<br>")
    return " ".join(line if line.endswith(".") else f"{line}." for line in lines if line)


def _panel(figure: go.Figure, axes: tuple[str, str], traces: list, captions: list[str], index: int) -> Panel:
    x_axis, y_axis = (figure.layout[f"{name[0]}axis{name[1:]}"] for name in axes)
    title, *lines = captions[index].split("<br>") if index < len(captions) else [figure.layout.title.text]
    first_y = figure.layout.yaxis.title.text
    return Panel(
        title=title,
        x_title=x_axis.title.text or "",
        y_title=y_axis.title.text or first_y or "",
        series=[_series(trace) for trace in traces],
        rules=_rules(figure, axes[0]),
        notes=lines,
        from_zero=any(trace.type == "bar" for trace in traces),
    )


def _series(trace: go.Bar | go.Scatter) -> Steps | Line | Points:
    x, y, label = list(trace.x), list(trace.y), trace.name or ""
    if trace.type == "bar":
        half = (x[1] - x[0]) / 2 if len(x) > 1 else 0.5
        return Steps([x[0] - half, *(value + half for value in x)], y, _colour(trace.marker.color), label)
    if "lines" in (trace.mode or ""):
        return Line(x, y, _colour(trace.line.color), label, dashed=trace.line.dash not in (None, "solid"))
    return Points(x, y, _colour(trace.marker.color), label)


def _rules(figure: go.Figure, x_axis: str) -> list[Rule]:
    """Vertical lines of one panel; a name belongs to the line at its place."""
    names = {round(note.x, 9): note for note in figure.layout.annotations if note.xref == x_axis}
    found = []
    for shape in figure.layout.shapes:
        if shape.xref == x_axis and shape.x0 == shape.x1:
            note = names.get(round(shape.x0, 9))
            level = round(((note.yshift or 0) - 1) / 14) if note else 0
            found.append(Rule(shape.x0, note.text if note else "", _colour(shape.line.color), level))
    return found


def _colour(colour: str) -> str:
    return PAGE_COLOURS.get(colour, "grey")
