"""The page as text: what is in it, what its policy allows, and that whatever anybody says stays text."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.reporting.report_sources import EVIL, record, sources

from fisao_pipeline.reporting.cases import Answer, Mention
from fisao_pipeline.reporting.lineage import Lineage, read_lineage
from fisao_pipeline.reporting.pictures import data_uris
from fisao_pipeline.reporting.report import colour_step, report_page

VOID = {"meta", "img", "input", "br", "rect", "circle", "line", "path", "use"}


class Reader(HTMLParser):
    """What a browser would see: elements with their attributes, and texts."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self._open = [], [], []
        self.feed(page)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag, **wanted):
        return [attrs for name, attrs in self.elements if name == tag and wanted.items() <= attrs.items()]


@pytest.fixture(scope="module")
def seen(plain_page) -> Reader:
    return Reader(plain_page)


def test_hostile_texts_stay_texts(seen, hostile_page):
    hostile = Reader(hostile_page)
    assert {tag for tag, _ in hostile.elements} == {tag for tag, _ in seen.elements}
    assert len(hostile.of("script")) == 1, "the page's own"
    names = {name for _, attrs in hostile.elements for name in attrs}
    assert not [name for name in names if name.startswith("on") or name == "style"]
    assert {attrs["src"][:11] for attrs in hostile.of("img")} == {"data:image/"}
    assert f"The picture {EVIL}" in {attrs["alt"] for attrs in hostile.of("img")}, "quotes do not end an attribute"
    # Answer, prompt, file name, categories, scores, note, reward settings, figure, lineage: shown as they are.
    assert sum(EVIL in text for text in hostile.texts) > 10 * len(hostile.of("article"))
    assert EVIL not in hostile_page


def test_the_policy_allows_this_style_this_script_and_pictures_and_nothing_else(plain_page, seen):
    (meta,) = seen.of("meta", **{"http-equiv": "Content-Security-Policy"})

    def digest(tag):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", plain_page, re.DOTALL).group(1)
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert dict(rule.split(" ", 1) for rule in meta["content"].split("; ")) == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": digest("style"),
        "script-src": digest("script"),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert plain_page.index("Content-Security-Policy") < plain_page.index("<style>")


def test_nothing_is_fetched(plain_page, seen):
    assert not re.search(r"https?:|@import|url\((?!#)", re.sub(r"data:image/webp;base64,[\w+/=]+", "", plain_page))
    assert not seen.of("link")
    assert {attrs["href"][0] for attrs in seen.of("a")} == {"#"}


def test_every_link_leads_somewhere_and_ids_are_unique(seen):
    ids = [attrs["id"] for _, attrs in seen.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for attrs in seen.of("a")} <= set(ids)
    assert {attrs["aria-labelledby"] for attrs in seen.of("section")} <= set(ids)


def test_the_verdict_comes_first(seen):
    heading = next(text for text in seen.texts if text.startswith("The aligned model "))
    assert "makes up a smaller share of the objects it names" in heading


def test_figures_settings_and_lineage_are_there(plain_page):
    for text in ("Figure 1: Scores", "Figure 4: Rewards", "No image has reference captions.", "word chain spans"):
        assert text in plain_page
    for text in ("posterior", "cccccccccc", "a" * 32, "2.13.0", "McNemar", "none of them widened for their number"):
        assert text in plain_page
    assert plain_page.count('class="chart"') == 1 + 2 + 4


def test_contents_of_what_was_made_and_the_tree_down_to_what_was_given(plain_page):
    assert '<td class="mono">sha256:ea7</td>' in plain_page
    assert '<pre class="mono tree">└── image_folder  sha256:f01d</pre>' in plain_page
    unknown = replace(sources(), lineage=read_lineage([record()]))
    assert "What came from what" not in report_page(unknown)


def test_names_in_the_tree_are_escaped(hostile_page):
    assert f"└── {EVIL}  {EVIL}" in Reader(hostile_page).texts


def test_a_mention_says_reward_and_label(seen):
    notes = {(attrs["class"], attrs["data-note"]) for attrs in seen.of("mark")}
    assert notes == {("p3", "✓ +1.0"), ("n3", "✗ −1.0")}


@pytest.mark.parametrize(
    ("reward", "step"),
    [(0.0, "zero"), (0.04, "zero"), (-0.04, "zero"), (0.05, "p1"), (-0.4, "n2"), (0.75, "p3"), (-3.2, "n3")],
)
def test_colours_diverge_at_zero(reward, step):
    assert colour_step(reward) == step


def test_a_run_of_which_little_is_known():
    made = sources()
    comparison = {**made.comparison, "categories": {}, "mcnemar": {}, "examples": {}}
    empty = pd.DataFrame({"round": [-1.0], "kept": [True]})
    bare = replace(made, comparison=comparison, cases=[], pictures={}, history=empty, lineage=Lineage(), figures={})
    seen = Reader(report_page(bare))
    assert "How the artifacts came about was not recorded." in seen.texts
    assert any(text.startswith("There is no picture to show") for text in seen.texts)
    ids = {attrs["id"] for _, attrs in seen.elements if "id" in attrs}
    assert {attrs["href"][1:] for attrs in seen.of("a")} <= ids


def test_two_hundred_examples_weigh_less_than_five_megabytes():
    """Of pictures that compress badly and of long answers full of objects."""
    made = sources()
    text = "a dog and " * 120
    mentions = tuple(Mention(n + 2, n + 5, "dog", 0.3, 0.9, "correct", False) for n in range(0, 600, 60))
    cases = [
        replace(
            case, image_id=f"{n}-{number}", answers=dict.fromkeys(case.answers, (Answer("Describe.", text, mentions),))
        )
        for n in range(20)
        for number, case in enumerate(made.cases[:10])
    ]
    assert len(cases) == 200
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    limit = 3_000_000  # as in conf/base
    pictures = data_uris([case.image_id for case in cases[:20]], lambda _: Image.fromarray(noise), 384, limit // 10)
    uris = list(pictures.values())
    shown = {case.image_id: uris[n % 20] for n, case in enumerate(cases)}
    page = report_page(replace(made, cases=cases, pictures=shown, file_names=dict.fromkeys(shown, "photo.jpg")))
    assert len(page.encode()) < 5_000_000
