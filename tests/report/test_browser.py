"""The page in a real browser: it loads nothing else, fits phones and desktops, and is readable in every theme."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssdlite.report.data import PriorFitRow, PriorFitSummary
from ssdlite.report.page import render

from .cases import SCENE, make_evaluated, make_report

NAMES = ('<img src="x" onerror="window.hit = 1">', "<script>window.hit = 1</script>", "a_very_long_name" * 8)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ),
)
WIDTHS, THEMES = (400, 1400), ("light", "dark")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser is driven by selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("there is no chromium with its chromedriver to open the page with")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a page with everything in it, class names that are HTML, and one image that was deleted."""
    folder = tmp_path_factory.mktemp("page")
    evaluated = make_evaluated(folder, [*SCENE, SCENE[0]], class_names=NAMES)
    evaluated.split.records[-1].image_path.unlink()
    fit = PriorFitSummary(10, 0.5, 0.4, 0.1, (PriorFitRow("under 8 px", 4, 0.25),))
    path = folder / "report.html"
    path.write_text(render(make_report(evaluated, fit=fit)), encoding="utf-8")
    return path


@pytest.fixture
def look(browser: Any, path: Path) -> Any:
    """Function (width, theme, media) that opens the page in this way."""

    def open_as(width: int, theme: str = "light", media: str = "screen") -> Any:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": theme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [scheme]})
        browser.get(path.as_uri())
        return browser

    return open_as


def test_it_loads_without_errors_and_without_a_network(look, browser, path):
    browser.get_log("performance")
    page = look(1400)
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [
        event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
    ]
    assert path.as_uri() in asked
    assert [url for url in asked if url != path.as_uri() and not url.startswith("data:")] == []
    assert page.execute_script("return window.hit") is None


def test_images_and_plots_are_there(look):
    page = look(1400)
    images = page.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert len(images) == 4 and all(complete and width > 0 for complete, width in images)
    assert "cannot be opened" in page.execute_script("return document.querySelector('.missing').textContent")
    plots = page.execute_script(
        "return [...document.querySelectorAll('.chart svg')].map(s => [s.getBoundingClientRect().width,"
        " s.querySelectorAll('path, rect, image').length])"
    )
    assert len(plots) == 17 and all(width > 200 and parts > 3 for width, parts in plots)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_readable_on_a_telephone_and_on_a_desk(look, width, theme):
    page = look(width, theme)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    outside = page.execute_script(
        "return [...document.querySelectorAll('main *, header *')].filter(e => !e.closest('.scroll, pre')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 100))"
    )
    assert outside == []
    heights = page.execute_script(
        "return [...document.querySelectorAll('.chart svg text')].map(t => parseFloat(getComputedStyle(t).fontSize)"
        " * t.getScreenCTM().a)"
    )
    straight = [height for height in heights if height > 0]  # of turned text the first entry is 0
    assert min(straight) >= 8, "pixels of a letter"
    assert contrast(page, "p.lead") > 7 and contrast(page, ".chart svg text") > 4.5  # WCAG's AAA and AA


def test_paper_is_white_and_has_no_menu(look):
    page = look(800, "dark", "print")
    assert background(page) == (255, 255, 255)
    assert page.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    assert contrast(page, "p.lead") > 7 and contrast(page, ".chart svg text") > 4.5


def background(page: Any) -> tuple[float, ...]:
    return numbers(page.execute_script("return getComputedStyle(document.body).backgroundColor"))


def contrast(page: Any, selector: str) -> float:
    """WCAG 2's contrast of an element's text with the page."""
    script = (
        "const s = getComputedStyle(document.querySelector(arguments[0])); return arguments[1] ? s.fill : s.color"
    )
    color = numbers(page.execute_script(script, selector, "svg" in selector))
    lighter, darker = sorted((luminance(color), luminance(background(page))), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(color: tuple[float, ...]) -> float:
    parts = [part / 255 for part in color]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def numbers(css: str) -> tuple[float, ...]:
    """'rgb(1, 2, 3)' -> (1, 2, 3)."""
    return tuple(float(part) for part in css[css.index("(") + 1 : css.index(")")].split(",")[:3])
