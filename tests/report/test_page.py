"""The page as a whole: complete, self-contained, and safe whatever names it shows."""

import ast
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ssdlite.report import page
from ssdlite.report.data import PriorFitRow, PriorFitSummary
from ssdlite.report.page import render
from tests.evaluation.cases import make_detections, make_record, make_split, random_case

from .cases import CAT, LEFT, NO_HISTORY, evaluate, make_evaluated, make_report

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Tags, ids, links and text of a page; fails where tags do not close each other."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.ids, self.links, self.words, self.open = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("href", "src") if name in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if not {"style", "svg"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    return make_evaluated(tmp_path_factory.mktemp("images"))


def test_it_holds_all_that_was_asked_for(evaluated):
    fit = PriorFitSummary(
        10, 0.5, 0.4, 0.1, (PriorFitRow("under 8 px", 4, 0.25), PriorFitRow("8 to 16 px", 0, math.nan))
    )
    page = Page(render(make_report(evaluated, fit=fit)))
    for name in (*evaluated.analysis.coco, "VOC07_AP50", "VOC12_AP50"):
        assert name in page.words, name
    for heading in (
        "How good is it?",
        "Which class is weakest?",
        "Which images are the worst?",
        "Model card",
    ):
        assert heading in page.text
    for title in (
        *(
            "Precision and recall",
            "recall and F1 by threshold",
            "Calibration",
            "Confusion matrix",
            "by object size",
        ),
        *("AP50 lost by error type", "Training loss", "Learning rate", "Throughput", "Waiting for data"),
        *("Validation AP", "Object size", "Fit of the priors by object size"),
    ):
        assert title in page.text, title
    assert page.tags.count("img") == 4 and page.tags.count("svg") == 17
    assert "epochs: 3" in page.text and "a run" in page.text


def test_nothing_comes_from_outside(evaluated):
    text = render(make_report(evaluated))
    page = Page(text)
    for link in page.links:
        assert link.startswith(("#", "data:")), link
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert set(inside) <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags and "iframe" not in page.tags
    assert not re.search(r"url\((?!#)|@import", text)


def test_hostile_names_are_only_text(tmp_path):
    names = ('<script>alert("cat")</script>', "$\\frac{--> </svg><img src=x onerror=alert(1)>")
    folder = tmp_path / "<q>folder"
    folder.mkdir()
    hostile = make_evaluated(folder, class_names=names)
    report = make_report(
        hostile, title="</title><script>1</script>", config="<script>2</script>", model={"<i>": "<u>"}
    )
    page = Page(render(report))
    assert not {"script", "q", "i>", "u"} & set(page.tags)
    assert page.tags.count("img") == 4
    assert names[0] in page.text and "<q>folder/image0.jpg" in page.text and "<script>2</script>" in page.text


@pytest.mark.parametrize(
    "scene",
    [
        pytest.param([([], []), ([], [])], id="nothing to find, nothing found"),
        pytest.param([([], [(LEFT, 0.9, CAT)])], id="nothing to find"),
        pytest.param([([(LEFT, CAT)], [])], id="nothing found"),
        pytest.param([([(LEFT, CAT)], [(LEFT, 0.9, CAT)])], id="one image, one class, all right"),
        pytest.param([([(LEFT, CAT)], [(LEFT, 1.0, CAT), (LEFT, 0.0, CAT)])], id="scores at both ends"),
        pytest.param([], id="no images"),
    ],
)
def test_degenerate_splits_have_a_page(tmp_path, scene):
    made = make_evaluated(tmp_path, scene, class_names=("cat",), threshold=None)
    page = Page(render(make_report(made, history=NO_HISTORY, has_priors=False)))
    assert "nan" not in page.text.lower().split()
    assert "Model card" in page.text


def test_a_run_without_an_evaluation_has_a_page():
    report = make_report(why_not_evaluated="It has no checkpoint yet.")
    page = Page(render(report))
    assert "It has no checkpoint yet." in page.text and "Training loss" in page.text
    assert "Which class" not in page.text and "img" not in page.tags


def test_many_classes_stay_small(tmp_path):
    """80 classes give one chart of curves and one matrix."""
    names = tuple(f"class number {number}" for number in range(80))
    records = [make_record(f"i{k}", [(LEFT, 1 + k % 80)]) for k in range(160)]
    found = [make_detections((LEFT, 0.5 + k / 400, 1 + (k + k % 3 // 2) % 80)) for k in range(160)]
    page = render(make_report(evaluate(make_split(*records, class_names=names), found)))
    Page(page)
    assert len(page) < 600_000  # without pictures: their files are not there


def test_figures_are_those_of_the_analysis():
    split, detections = random_case(1)
    report = make_report(evaluate(split, detections))
    text = Page(render(report)).text
    for value in report.evaluated.analysis.coco.values():
        assert f"{value:.3f}" in text
    assert f"{report.evaluated.analysis.threshold:.2f}" in text


def test_nothing_slow_is_imported_before_it_is_needed():
    """`ssdlite eval --no-report` does not wait for matplotlib."""
    for path in Path(page.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"matplotlib", "jinja2", "torch"}, path
