"""The page: whatever a model, a prompt or a file name says, it stays text."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fisao_pipeline.reporting.case_study import case_study_page, colour_step, data_uri
from fisao_pipeline.reporting.cases import Answer, Case, Mention

EVIL = """<script>alert(1)</script>"><img src=x onerror=alert(1)>' onload='alert(1)"""
PICTURE = data_uri(Image.new("RGB", (4, 4), "red"), 16)
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """What a browser would see: elements with their attributes, and text with the elements it is in."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self._open = [], [], []
        self.feed(page)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        self.texts.append((data, [attrs.get("class", "") for _, attrs in self._open]))

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.elements if name in attrs]


def case(text="a dog", mentions=(), *, prompt="Describe.", kind="gained"):
    answers = (Answer("base", "Nothing.", ()), Answer("aligned", text, tuple(mentions)))
    return Case(kind, "p", "i", prompt, answers)


def page(*cases, file_name="photo.jpg", settings=None):
    return case_study_page(cases, {"i": PICTURE}, {"i": file_name}, settings or {"rule": "posterior"})


def test_hostile_texts_stay_texts():
    mention = Mention(0, len(EVIL), EVIL, 0.3, 0.9, "correct", False)
    html = page(case(EVIL, [mention], prompt=EVIL), case(EVIL, kind="lost"), file_name=EVIL, settings={EVIL: EVIL})
    seen = Reader(html)
    tags = {tag for tag, _ in seen.elements}
    assert "script" not in tags
    assert {attrs["src"] for tag, attrs in seen.elements if tag == "img"} == {PICTURE}
    assert not [name for _, attrs in seen.elements for name in attrs if name.startswith("on") or name == "style"]
    harmless = Reader(page(case("a dog", [Mention(2, 5, "dog", 0.3, 0.9, "correct", False)]), case(kind="lost")))
    assert tags == {tag for tag, _ in harmless.elements}, "no element that a harmless page lacks"
    # Prompt, answer twice, category, file name twice, setting's name and value: shown as they are.
    assert sum(EVIL in text for text, _ in seen.texts) == 8
    assert f"The picture {EVIL}" in seen.attributes("alt"), "quotes do not end an attribute"


def test_the_policy_allows_this_style_and_pictures_and_nothing_else():
    html = page(case())
    (policy,) = (a["content"] for t, a in Reader(html).elements if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert html.index("Content-Security-Policy") < html.index("<style>")


def test_nothing_is_fetched():
    html = page(case())
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html


def test_a_mention_is_coloured_and_says_its_score():
    mentions = [Mention(2, 5, "dog", 0.312, 0.9, "correct", False), Mention(8, 11, "cat", 0.1, -2.5, None, True)]
    seen = Reader(page(case("a dog, cat", [mentions[0]]), case("a dog a cat", mentions, kind="lost")))
    coloured = [attrs for _, attrs in seen.elements if "tabindex" in attrs]
    assert [attrs["class"] for attrs in coloured] == [
        "mention p3 correct",
        "mention p3 correct",
        "mention n3 unknown",
    ]
    tips = {attrs["id"] for _, attrs in seen.elements if attrs.get("role") == "tooltip"}
    assert [attrs["aria-describedby"] in tips for attrs in coloured] == [True] * 3
    assert len(tips) == 3, "ids are unique"
    said = [text for text, classes in seen.texts if "tip" in classes]
    assert {"dog", "score 0.312", "reward +0.90", "correct", "reward -2.50", "no label, named again"} <= set(said)


def test_the_answer_reads_as_it_was_written():
    seen = Reader(page(case("  A dog,\na cat.", [Mention(4, 7, "dog", 0.3, 0.9, "correct", False)])))
    written = [text for text, classes in seen.texts if "text" in classes and "tip" not in classes]
    assert "".join(written) == "Nothing.  A dog,\na cat."


@pytest.mark.parametrize(
    ("reward", "step"),
    [(0.0, "zero"), (0.04, "zero"), (-0.04, "zero"), (0.05, "p1"), (-0.4, "n2"), (0.75, "p3"), (-3.2, "n3")],
)
def test_colours_diverge_at_zero(reward, step):
    assert colour_step(reward) == step


def test_every_colour_is_in_the_legend_and_in_both_schemes():
    html = page(case())
    light, dark = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    for step in ("n3", "n2", "n1", "zero", "p1", "p2", "p3"):
        assert f'<span class="swatch {step}">' in html
        assert f"--{step}:" in light
        assert f"--{step}:" in dark


def test_a_kind_without_cases_says_so_and_so_does_an_empty_page():
    assert "None: no picture changed in this direction." in page(case())
    assert "There is no greedy caption of both models to compare." in page()


def test_a_picture_is_downscaled_and_loses_its_metadata():
    noise = np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.info["comment"] = b"where I live"
    uri = data_uri(image, 32)
    assert re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/]+=*", uri)
    encoded = base64.b64decode(uri.split(",")[1])
    assert Image.open(io.BytesIO(encoded)).size == (32, 16)
    assert b"where I live" not in encoded
    assert image.size == (80, 40), "the caller's picture is left alone"
    assert Image.open(io.BytesIO(base64.b64decode(data_uri(image, 500).split(",")[1]))).size == (80, 40)
