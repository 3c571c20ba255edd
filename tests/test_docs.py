"""The pages that people read are whole: nothing is left to be filled in, and what they point to is there."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def placeholders(text: str) -> list[str]:
    """Lines that hold the mark of what is still to be written."""
    return [line for line in text.splitlines() if "@@" in line]


def broken_links(page: Path) -> list[str]:
    """Relative links and pictures, of Markdown and of HTML, whose file is not there."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(<?([^)\s>]+)", text) + re.findall(r"(?:src|href)=[\"']([^\"']+)", text)
    links += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, flags=re.MULTILINE)
    paths = [unquote(link.partition("#")[0]) for link in links if not re.match(r"[a-z][a-z0-9+.-]*:|#", link)]
    return [path for path in paths if not (page.parent / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_whole(page: Path) -> None:
    assert placeholders(page.read_text(encoding="utf-8")) == []
    assert broken_links(page) == []


def test_what_is_missing_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "![shown](gone.png) [there](page.md#part) [far](https://example.com/x) [here](#part)\n"
        "<img src='lost.jpg'> @@FIGURE@@\n[ref]: away.md\n```\n[code](no.md)\n```\n"
    )
    assert broken_links(page) == ["gone.png", "lost.jpg", "away.md"]
    assert placeholders(page.read_text()) == ["<img src='lost.jpg'> @@FIGURE@@"]
