"""Fixtures: a page with a small network and hostile class names, and an offline Chromium that has opened it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.web.page import LIBRARY, WASM, build_page, find_runtime

HOSTILE_NAMES = (
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 2'> & \u202egnp\u2028\x00",
    "a {{title}} of <!-- " + "many letters " * 20,
)
PATIENCE = 180  # seconds; a machine may be busy with other things
SWITCHES = (
    *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
    *("disable-background-networking", "disable-component-update", "host-resolver-rules=MAP * ~NOTFOUND"),
    *("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"),  # a camera that shows a clock
)


@pytest.fixture
def fake_runtime(tmp_path: Path) -> Path:
    """Write files that `find_runtime` accepts as ONNX Runtime Web."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    (folder / LIBRARY).write_bytes(b"/*! ONNX Runtime Web v9.8.7 */ export {}")
    (folder / WASM).write_bytes(b"\0asm and so on")
    return folder


@pytest.fixture(scope="session")
def hostile_model(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network with class names that try to break out of the page."""
    path = tmp_path_factory.mktemp("hostile") / "hostile.onnx"
    model = onnx.load(files["nms"])
    for entry in model.metadata_props:
        if entry.key == "names":
            entry.value = json.dumps(HOSTILE_NAMES)
    onnx.save(model, path)
    return path


class Page:
    """Page in Chromium, with the actions of a user."""

    def __init__(self, driver: Any, model: Path) -> None:
        self.driver, self.model = driver, model

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(f"return {script}", *arguments)

    def wait(self, condition: str) -> None:
        """Wait until the JavaScript expression `condition` is true."""
        start = time.monotonic()
        while not self.run(condition):
            assert time.monotonic() - start < PATIENCE, f"{condition} never came true; {self.text('message')}"
            time.sleep(0.05)

    def text(self, name: str) -> str:
        return self.run("document.getElementById(arguments[0]).textContent", name)

    def click(self, name: str) -> None:
        self.driver.find_element("id", name).click()

    def choose(self, path: Path) -> None:
        """Choose a file by the button, and wait for the detections or for a message."""
        self.run("Object.assign(shown, { found: null }), say()")
        self.driver.find_element("id", "file").send_keys(str(path))
        self.wait("shown.found !== null || part('message').textContent !== ''")

    def set_threshold(self, value: float) -> None:
        self.run(
            "part('threshold').value = arguments[0], part('threshold').dispatchEvent(new Event('input'))", value
        )


@pytest.fixture(scope="session")
def web_runtime() -> Path:
    """The folder of the npm package's files, from SSDLITE_WEB_RUNTIME or `make web-runtime`."""
    folder = Path(os.environ.get("SSDLITE_WEB_RUNTIME", Path(__file__).parents[3] / "data/onnxruntime-web"))
    if not folder.is_dir():
        pytest.skip(f"ONNX Runtime Web is not in {folder}; 'make web-runtime' fetches it")
    return folder


@pytest.fixture(scope="session")
def open_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Any]]:
    """Start Chromium with a new profile, offline, with a log of its requests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("chromium and chromedriver are not both installed")
    started = []

    def start() -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for switch in (*SWITCHES, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
            options.add_argument(f"--{switch}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
        started.append(driver)
        driver.set_script_timeout(PATIENCE)
        nothing = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", nothing)
        return driver

    yield start
    for driver in started:
        driver.quit()


@pytest.fixture(scope="session")
def page(
    hostile_model: Path,
    web_runtime: Path,
    open_browser: Callable[[], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Page:
    """The page of `hostile_model`, opened from its file, with the detector started."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    predictor = OnnxPredictor(hostile_model)
    html = build_page(hostile_model.read_bytes(), predictor, find_runtime(web_runtime), title="</title><b>&amp;")
    path.write_text(html, encoding="utf-8")
    driver = open_browser()
    driver.get_log("performance")  # what the browser's own first page asked for
    driver.get(path.as_uri())
    page = Page(driver, hostile_model)
    page.wait("document.getElementById('busy').hidden")
    assert page.text("message") == ""
    return page
