"""`report.html` as train, eval and report write it."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch

from ssdlite.build.data import read_data
from ssdlite.commands import report as command
from ssdlite.commands.run_folder import Sessions, log_session, read_detections, read_sessions
from ssdlite.config.schema import load_config
from ssdlite.structures import DataSplit
from ssdlite.training.checkpoint import save_checkpoint
from tests.conftest import TINY

REPORT = "run.report=true"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the tiny run, to do harm to."""
    return shutil.copytree(trained, tmp_path / "tiny")


@pytest.fixture
def no_evaluation(monkeypatch):
    """Fails the test where a model is run over images."""
    monkeypatch.setattr(command, "run_model", lambda *_: pytest.fail("the stored detections were not used"))


@pytest.fixture
def quick_page(monkeypatch):
    """Pages that only say what they are about, where it matters that and where they are written."""

    def render(report) -> str:
        evaluated = report.evaluated
        return f"{report.title}: {len(evaluated.split)} {evaluated.split_name} images"

    monkeypatch.setattr("ssdlite.commands.report_builder.render", render)


def text_of(path) -> str:
    page = path.read_text(encoding="utf-8")
    page = re.sub(r"<style>.*?</style>|<svg.*?</svg>|<[^>]*>", " ", page, flags=re.DOTALL)
    return " ".join(page.replace("\u00a0", " ").split())


def test_train_leaves_a_report_and_what_it_is_made_of(cli, drawn, tmp_path):
    options = [f"data={drawn}", f"run.dir={tmp_path}", "run.name=new", "train.epochs=1", *TINY, REPORT]
    result = cli("train", *options)
    assert result.code == 0, result.err
    assert "report.html" in result.out
    run = tmp_path / "new"
    text = text_of(run / "report.html")
    for words in (
        "8 validation images",
        "epoch 1 of 1",
        "ring",
        "width: 0.25",
        "Parameters",
        "Trained on",
        "torch 2",
    ):
        assert words in text, words
    assert isinstance(json.loads((run / "detections.json").read_text()), list)
    assert read_sessions(run).count == 1


def test_the_report_is_of_what_the_run_found(cli, trained, run, no_evaluation):
    result = cli("report", run)
    assert result.code == 0, result.err
    figures = torch.load(trained / "best.pt")["metrics"]
    assert f"{figures['AP50']:.3f}" in text_of(run / "report.html")


def test_detections_of_other_weights_are_not_believed(cli, run, monkeypatch, quick_page):
    evaluated = []
    run_model = command.run_model
    monkeypatch.setattr(command, "run_model", lambda *one: evaluated.append(1) or run_model(*one))
    content = torch.load(run / "best.pt")
    content["metrics"]["AP"] = 0.9
    save_checkpoint(run / "best.pt", content)
    assert cli("report", run).code == 0 and len(evaluated) == 1
    (run / "detections.json").write_text('[{"image_id": "another"')
    assert cli("report", run / "best.pt").code == 0 and len(evaluated) == 2
    (run / "detections.json").unlink()
    assert cli("report", run, "eval.score_threshold=0.1").code == 0 and len(evaluated) == 3


def test_a_run_without_a_best_checkpoint_is_evaluated_by_its_last(cli, run, quick_page):
    (run / "best.pt").unlink()
    result = cli("report", run, "--output", run / "deep" / "page.html")
    assert result.code == 0 and "there is no best.pt" in result.out
    assert text_of(run / "deep" / "page.html") == "tiny/last.pt: 8 val images"


def test_a_run_that_was_killed_before_its_first_checkpoint(cli, run):
    for path in run.glob("*.pt"):
        path.unlink()
    result = cli("report", run)
    assert result.code == 0, result.err
    text = text_of(run / "report.html")
    assert "no checkpoint yet" in text and "How did training go?" in text and "Which class" not in text


def test_images_that_are_gone_are_no_end(cli, run, drawn, tmp_path, no_evaluation):
    data = shutil.copytree(drawn, tmp_path / "data")
    for path in (data / "val").iterdir():
        path.write_bytes(b"no picture")
    result = cli("report", run, f"data={data}")
    assert result.code == 0, result.err
    assert "not a readable image" in text_of(run / "report.html")


def test_a_corner_head_has_no_priors_to_speak_of(cli, drawn, tmp_path):
    options = [f"data={drawn}", f"run.dir={tmp_path}", "run.name=corner", "train.epochs=1", *TINY]
    result = cli("train", *options, "model.head=corner", REPORT)
    assert result.code == 0, result.err
    assert "The head of this network has no priors." in text_of(tmp_path / "corner" / "report.html")


def test_eval_writes_it_beside_the_model(cli, run, tmp_path, quick_page):
    assert cli("eval", run / "best.pt").code == 0
    assert text_of(run / "report.html") == "tiny: 8 val images"
    assert cli("eval", run / "last.pt", "--split", "train", "--no-report").code == 0
    assert not (run / "report-last.pt-train.html").exists()
    assert cli("eval", run / "last.pt", "--split", "train").code == 0
    assert text_of(run / "report-last.pt-train.html") == "tiny/last.pt: 24 train images"
    assert cli("eval", run / "best.pt", "--report", tmp_path / "own.html").code == 0
    assert text_of(tmp_path / "own.html") == "tiny: 8 val images"
    both = cli("eval", run / "best.pt", "--report", tmp_path / "own.html", "--no-report")
    assert both.code == 2 and "contradict" in both.err


def test_another_programs_results_have_a_report_when_asked(cli, run, drawn, tmp_path):
    results = shutil.copy(run / "detections.json", tmp_path / "results.json")
    assert cli("eval", results, f"data={drawn}").code == 0
    assert not (tmp_path / "report.html").exists()
    assert cli("eval", results, f"data={drawn}", "--report", tmp_path / "own.html").code == 0
    text = text_of(tmp_path / "own.html")
    assert "results.json" in text and "How did training go?" not in text and "priors" not in text.lower()


def test_where_nothing_may_be_written_eval_still_judges(cli, run):
    (run / "report.html").unlink(missing_ok=True)  # another test may have evaluated the same run
    (run / "report.html").mkdir()
    result = cli("eval", run / "best.pt")
    assert result.code == 0 and "no report" in result.out and "AP_small" in result.out


def test_a_report_that_fails_does_not_fail_the_training(cli, drawn, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("ssdlite.commands.train.report_model", fail)
    options = [f"data={drawn}", f"run.dir={tmp_path}", "run.name=new", "train.epochs=1", *TINY, REPORT]
    result = cli("train", *options)
    assert result.code == 0 and "the report could not be written (a bug)" in result.out
    assert "ssdlite report" in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["none"], 1, "there is no run none"),
        ([".."], 1, "is not the folder of a run"),
        (["RUN", "model.width=1"], 2, "model.width cannot be changed"),
        (["RUN", "data=none"], 1, "none: there is no such folder"),
        (["RUN", "--output", "."], 1, "it is a folder"),
    ],
)
def test_mistakes_get_one_sentence(cli, trained, tmp_path, monkeypatch, arguments, code, sentence):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    result = cli("report", *(trained if argument == "RUN" else argument for argument in arguments))
    assert (result.code, sentence in result.err) == (code, True), result.err
    assert len(result.err.strip().splitlines()) == 1


def test_sessions_add_up_without_the_time_between_them(tmp_path):
    lines = [
        {"time": "2026-01-01T10:00:00+00:00", "step": 0, "machine": {"processor": "a"}},
        {"time": "2026-01-01T10:10:00+00:00", "step": 50},
        {"time": "2026-01-02T09:00:00+00:00", "step": 40, "machine": {"processor": "b"}},
        {"time": "2026-01-02T09:05:00+00:00", "step": 60},
    ]
    (tmp_path / "sessions.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"time": "2026-01-0')
    found = read_sessions(tmp_path)
    assert isinstance(found, Sessions) and (found.seconds, found.count) == (15 * 60, 2)
    assert found.machine == {"processor": "b"} and found.ended.day == 2
    log_session(tmp_path / "..", 0)  # beside: what has no beginning counts for nothing
    assert read_sessions(tmp_path / "..") is None
    (tmp_path / ".." / "sessions.jsonl").unlink()
    assert read_sessions(tmp_path / "nowhere") is None


def test_stored_detections_are_those_of_these_images(trained, drawn):
    (val,) = read_data(load_config(None, [f"data={drawn}"]).data, ["val"])
    assert len(read_detections(trained, val)) == 8
    assert read_detections(trained, DataSplit(val.records[:4], val.class_names, val.category_ids)) is None
    assert read_detections(drawn, val) is None
