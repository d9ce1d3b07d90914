"""The report of a run: one page with figures, pictures, curves and lineage, that opens anywhere and fetches nothing.

Answers, prompts, file names, categories and parameters are untrusted text: the template escapes all it prints, and the
page's policy allows no script and no style but its own, and no request.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from fisao_pipeline.reporting import plotly_panels
from fisao_pipeline.reporting.cases import KINDS, MODELS, Case
from fisao_pipeline.reporting.drawings import Panel, panel_svg
from fisao_pipeline.reporting.lineage import Lineage
from fisao_pipeline.reporting.marks import Mark, change_mark, models_mark, reach
from fisao_pipeline.reporting.training_curves import training_panels
from fisao_pipeline.reporting.verdicts import Finding, findings, outcome, signed, verdict

# Rewards of all rules are of the order of one; fixed edges make the colours of two runs comparable.
EDGES = (0.05, 0.35, 0.75)
# Metrics at a glance: those of which one way is better, without POPE's parts, and how much is said, without which a
# fall of the first two is no news.
GLANCE = (
    "chair_i",
    "chair_s",
    "recall",
    "objects_per_caption",
    "repeated_mentions",
    "unlikely_captions",
    "pope_accuracy",
)
OUTCOMES = {
    "better": ("▲", "better"),
    "worse": ("▼", "worse"),
    "changed": ("◆", "changed"),
    "open": ("○", "open"),
    "undefined": ("–", "undefined"),
}
# Of a category, with the way that is better.
CATEGORY_METRICS = {"hallucinated_per_caption": "lower", "recall": "higher"}
CATEGORIES_SHOWN = 12


@dataclass(frozen=True)
class Sources:
    """What a report is made of.

    Attributes:
        comparison: The ``comparison``.
        titles: Of each decoding: what its figures rest on.
        settings: Of each decoding: the line that says what its figures hang on.
        cases: The pictures to show.
        pictures: Image id to an address with the picture in it.
        file_names: Image id to file name.
        figures: The paper's figures by their number.
        history: The ``training_history``.
        reward_settings: What the rewards hang on, name to value.
        verifier_errors: In words, what the reward itself gets wrong; empty where nothing is known.
        lineage: How all this came about.
    """

    comparison: Mapping[str, Any]
    titles: Mapping[str, str]
    settings: Mapping[str, str]
    cases: Sequence[Case]
    pictures: Mapping[str, str]
    file_names: Mapping[str, str]
    figures: Mapping[str, go.Figure]
    history: pd.DataFrame
    reward_settings: Mapping[str, str]
    verifier_errors: str
    lineage: Lineage


def report_page(sources: Sources) -> str:
    """The page as HTML."""
    comparison = sources.comparison
    decodings = list(comparison["change"])
    found = {decoding: findings(comparison, decoding) for decoding in decodings}
    style, script = _text("report.css"), _text("report.js")
    categories = sorted({name for case in sources.cases for name in case.categories})
    return _template().render(
        sources=sources,
        comparison=comparison,
        decodings=decodings,
        found=found,
        verdicts={decoding: verdict(found[decoding]) for decoding in decodings},
        glance=_glance(found),
        category_tables={decoding: _category_table(comparison, decoding) for decoding in comparison["categories"]},
        categories=categories,
        category_number={name: number for number, name in enumerate(categories)},
        figures={number: _figure(figure, f"figure-{number}") for number, figure in sources.figures.items()},
        training=_drawn(training_panels(sources.history), "training"),
        lineage=sources.lineage,
        kinds=list(KINDS.values()),
        models=MODELS,
        outcomes=OUTCOMES,
        legend=_legend(),
        colour_step=colour_step,
        signed=signed,
        finding_mark=_finding_mark,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )


def colour_step(reward: float) -> str:
    """Class of a reward on the diverging scale: ``n3`` … ``n1``, ``zero``, ``p1`` … ``p3``."""
    step = sum(abs(reward) >= edge for edge in EDGES)
    return f"{'p' if reward > 0 else 'n'}{step}" if step else "zero"


def _legend() -> list[tuple[str, str]]:
    weak, middle, strong = EDGES
    below = [("n3", f"below −{strong:g}"), ("n2", f"to −{middle:g}"), ("n1", f"to −{weak:g}")]
    above = [("p1", f"{weak:g} to {middle:g}"), ("p2", f"to {strong:g}"), ("p3", "more")]
    return [*below, ("zero", "about 0"), *above]


def _glance(found: Mapping[str, Sequence[Finding]]) -> list[dict[str, Finding]]:
    """Rows of the overview: of each metric its finding by decoding."""
    by_metric = {
        name: {decoding: finding for decoding, own in found.items() for finding in own if finding.metric == name}
        for name in GLANCE
    }
    return [row for row in by_metric.values() if row]


def _finding_mark(finding: Finding) -> Mark:
    tops = [one[part] for one in (finding.base, finding.aligned) for part in ("value", "high") if one[part] is not None]
    return models_mark(finding.base, finding.aligned, 1.0 if finding.percent else max(tops, default=0) * 1.08 or 1.0)


def _category_table(comparison: Mapping[str, Any], decoding: str) -> dict[str, Any]:
    """Rows of a decoding's categories, those with the most made-up mentions first, and the note on their number."""
    effects = comparison["categories"][decoding]
    captions = comparison["settings"]["samples"][decoding]["captions"]
    rows = sorted(effects["categories"], key=lambda row: -sum(row[model]["hallucinated"] for model in MODELS))
    axis = reach([row["change"]["hallucinated_per_caption"] for row in rows])
    return {
        "shown": CATEGORIES_SHOWN,
        "note": effects["note"],
        "reach": 100 * axis,
        "rows": [
            {
                **row,
                "per_100": {model: 100 * row[model]["hallucinated"] / captions for model in MODELS},
                "outcomes": {name: outcome(row["change"][name], way) for name, way in CATEGORY_METRICS.items()},
                "mark": change_mark(row["change"]["hallucinated_per_caption"], axis),
            }
            for row in rows
        ],
    }


def _figure(figure: go.Figure, key: str) -> dict[str, Any]:
    panels = plotly_panels.panels(figure)
    return {
        "title": figure.layout.title.text,
        "note": plotly_panels.notes(figure),
        "panels": _drawn(panels, key),
        "reason": "" if panels else plotly_panels.reason(figure),
    }


def _drawn(panels: Sequence[Panel], key: str) -> list[tuple[Panel, Markup]]:
    return [(panel, panel_svg(panel, f"{key}-{number}")) for number, panel in enumerate(panels, start=1)]


def _policy(style: str, script: str) -> str:
    own_style, own_script = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
        for text in (style, script)
    )
    rules = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": own_style,
        "script-src": own_script,
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _text(name: str) -> str:
    return (files("fisao_pipeline.reporting") / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(_text("report.html.jinja"))
