"""The report in a real browser: Debian's Chromium, driven by Playwright; axe looks for what some people cannot use."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from tests.browsing import chromium, watched_page
from tests.reporting.report_sources import EVIL

PHONE = {"width": 360, "height": 780}


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def files(tmp_path_factory, plain_page, hostile_page):
    folder = tmp_path_factory.mktemp("report")
    pages = {"plain": plain_page, "hostile": hostile_page}
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in pages}


@pytest.fixture
def opened(browser, files):
    """Open a page; what it logs, asks for, or fails in is kept beside it."""
    contexts = []

    def open_page(name="plain", **options):
        contexts.append(browser.new_context(**options))
        page = watched_page(contexts[-1])
        page.goto(files[name])
        return page

    yield open_page
    for context in contexts:
        context.close()


def open_all(page):
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


def visible_cards(page):
    return page.locator(".card:visible").count()


@pytest.mark.parametrize("name", ["plain", "hostile"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_renders_in_silence_and_asks_for_nothing(opened, files, name, scheme):
    page = opened(name, color_scheme=scheme)
    open_all(page)
    page.wait_for_load_state("networkidle")
    assert page.trouble == []
    assert [url for url in page.requests if not url.startswith("data:image/webp")] == [files[name]]
    assert page.locator("h1").inner_text().startswith("The aligned model")
    widths = page.evaluate("[...document.querySelectorAll('.card img')].map((image) => image.naturalWidth)")
    assert widths and all(widths)
    assert page.locator("svg.chart").count() == page.locator("svg.chart:visible").count() == 7


def test_hostile_texts_are_read_as_texts(opened):
    page = opened("hostile")
    assert page.locator(".card .text").first.text_content() == EVIL + EVIL
    assert page.locator(".card figcaption").first.inner_text().startswith(EVIL)
    page.locator("select[name=category]").select_option(label=EVIL)
    assert visible_cards(page) == page.locator(".card").count()
    page.locator("input[name=text]").fill("<script>ALERT(1)")
    assert visible_cards(page) == page.locator(".card").count()
    assert page.trouble == []


def test_filters(opened):
    page = opened()
    everything = page.locator(".card").count()
    assert visible_cards(page) == everything == 10
    page.get_by_role("radio", name="worse").check()
    assert visible_cards(page) == page.locator(".card.worse").count() == 2
    assert page.locator("#shown").inner_text() == "2 of 10 shown"
    page.locator("select[name=decoding]").select_option("sampled")
    assert visible_cards(page) == 1
    page.locator("select[name=category]").select_option(label="cat")
    assert visible_cards(page) == 0 and page.locator("#nothing").is_visible()
    page.locator("#filters label", has_text="all").first.click()
    page.locator("select[name=decoding]").select_option("")
    cats = visible_cards(page)
    assert 0 < cats < everything
    page.locator("input[name=text]").fill("I0.JPG")
    assert visible_cards(page) == 2
    page.locator("input[name=text]").press("Enter")
    assert visible_cards(page) == 2, "nothing is sent, nothing is lost"
    assert not page.locator("#nothing").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing(opened, scheme, viewport):
    # axe brings its own code, which the page's policy rightly forbids.
    page = opened(color_scheme=scheme, viewport=viewport, bypass_csp=True)
    open_all(page)
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_axe_would_find_something(opened):
    page = opened(bypass_csp=True)
    page.evaluate("document.querySelector('.card img').removeAttribute('alt')")
    assert "image-alt" in Axe().run(page).generate_snapshot()


@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_a_phone_scrolls_in_one_direction(opened, name):
    page = opened(name, viewport=PHONE, is_mobile=True, has_touch=True)
    open_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate("window.innerWidth") == PHONE["width"], "nothing made the page wider than the screen"


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_theme_follows_the_system_until_it_is_chosen(opened):
    light, page = background(opened(color_scheme="light")), opened(color_scheme="dark")
    dark = background(page)
    assert light != dark
    button = page.get_by_role("button", name="Theme")
    button.click()
    assert button.inner_text() == "Theme: light" and background(page) == light
    button.click()
    assert button.inner_text() == "Theme: dark" and background(page) == dark
    button.click()
    assert button.inner_text() == "Theme: auto" and background(page) == dark


def test_on_paper_it_is_light_open_and_without_controls(opened):
    page = opened(color_scheme="dark")
    page.get_by_role("radio", name="worse").check()
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert background(page) == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible() and not page.locator("#filters").is_visible()
    assert page.locator("details:not([open]):not(.scores)").count() == 0
    assert visible_cards(page) == 2, "what was chosen is what is printed"
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open]):not(.scores)").count() > 0
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_everything_is_shown(opened):
    page = opened(java_script_enabled=False)
    assert visible_cards(page) == 10
    assert not page.locator("#filters").is_visible() and not page.locator("#theme").is_visible()


def test_it_works_by_keyboard(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.locator("input[name=kind]").first.focus()
    page.keyboard.press("ArrowRight")
    assert visible_cards(page) == page.locator(".card.better").count() < 10
