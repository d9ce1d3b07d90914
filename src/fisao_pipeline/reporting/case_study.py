"""Figure 5: one self-contained page with pictures and both models' answers, objects coloured by reward.

Answers, prompts, file names and categories are untrusted text: the template escapes all it prints, and the page's
policy forbids scripts, foreign content and styles other than its own.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from fisao_pipeline.reporting.cases import RULE, Case

# Rewards of all rules are of the order of one; fixed edges make the colours of two runs comparable.
EDGES = (0.05, 0.35, 0.75)
KINDS = {
    "gained": ("Gained most", "Pictures on which the aligned model earns most above the base model."),
    "typical": ("Typical", "Pictures whose change lies nearest to the median of all."),
    "lost": ("Lost most", "Pictures on which the aligned model earns least, measured against the base model."),
}
JPEG_QUALITY = 90


def data_uri(image: Image.Image, max_pixels: int) -> str:
    """The picture as a JPEG within an address, no side longer than ``max_pixels``, without any metadata."""
    small = image.convert("RGB")
    small.thumbnail((max_pixels, max_pixels))
    small.info = {}
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"


def colour_step(reward: float) -> str:
    """Class of a reward on the diverging scale: ``n3`` … ``n1``, ``zero``, ``p1`` … ``p3``."""
    step = sum(abs(reward) >= edge for edge in EDGES)
    return f"{'p' if reward > 0 else 'n'}{step}" if step else "zero"


def case_study_page(
    cases: Sequence[Case], pictures: Mapping[str, str], file_names: Mapping[str, str], settings: Mapping[str, str]
) -> str:
    """The page as HTML.

    Args:
        cases: In the order they are shown in.
        pictures: Image id to `data_uri`.
        file_names: Image id to file name.
        settings: What the rewards depend on, name to value, printed at the top.
    """
    style = _text("case_study.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return _template().render(
        cases=cases,
        kinds=KINDS,
        pictures=pictures,
        file_names=file_names,
        settings=settings,
        rule=RULE,
        legend=_legend(),
        colour_step=colour_step,
        style=Markup(style),
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
    )


def _legend() -> list[tuple[str, str]]:
    weak, middle, strong = EDGES
    above = [("p1", f"{weak:g} to {middle:g}"), ("p2", f"to {strong:g}"), ("p3", "more")]
    below = [("n3", f"below −{strong:g}"), ("n2", f"to −{middle:g}"), ("n1", f"to −{weak:g}")]
    return [*below, ("zero", "about 0"), *above]


def _text(name: str) -> str:
    return (files("fisao_pipeline.reporting") / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_text("case_study.html.jinja"))
