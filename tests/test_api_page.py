"""docs/api.md lists the public names, as `scripts/make_api_page.py` writes it."""

import importlib
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "scripts/make_api_page.py"))


def test_the_page_is_up_to_date():
    assert (ROOT / "docs/api.md").read_text(encoding="utf-8") == SCRIPT["make_page"]()


@pytest.mark.parametrize("name", SCRIPT["MODULES"])
def test_public_names_are_there_and_documented(name):
    module = importlib.import_module(name)
    for public in module.__all__:
        value = getattr(module, public)
        assert value.__module__ == name and value.__doc__, public


def test_the_package_has_its_detector():
    package = importlib.import_module("ssdlite")
    assert {name for name in package.__all__ if hasattr(package, name)} == {"Detector", "__version__"}
