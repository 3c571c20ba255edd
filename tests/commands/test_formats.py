"""`ssdlite export FORMAT`, and `eval` and `predict` with what it writes."""

import json
import sys

import pytest

from ssdlite.export.formats.registry import RUNTIMES

from ..export.formats.conftest import require_runtime


def figures_of(path):
    return json.loads(path.read_text())["coco"]


@pytest.mark.parametrize("name", ["openvino", "ncnn"])
def test_an_exported_file_scores_as_the_checkpoint_and_predicts(cli, known, tmp_path, name):
    require_runtime(name)
    model, option = tmp_path / f"tiny{RUNTIMES[name].name_suffix}", "eval.score_threshold=0.001"
    written = cli("export", name, known.model, option, "--output", model)
    assert written.code == 0, written.err
    assert "Agrees with PyTorch on 8 validation images" in " ".join(written.out.split())
    report = json.loads((tmp_path / f"{model.name}.json").read_text())["proof"]
    assert report["accuracy"]["passed"] and report["accuracy"]["num_images"] == 8
    options = ("--no-report", "--json")
    assert cli("eval", known.model, option, *options, tmp_path / "torch.json").code == 0
    evaluated = cli("eval", model, f"data={known.data}", *options, tmp_path / "file.json")
    assert evaluated.code == 0, evaluated.err
    found, expected = figures_of(tmp_path / "file.json"), figures_of(tmp_path / "torch.json")
    assert expected["AP"] == pytest.approx(known.ap)
    for figure, value in expected.items():
        assert found[figure] == pytest.approx(value), figure


@pytest.mark.parametrize("name", ["openvino", "ncnn"])
def test_an_exported_file_predicts_what_the_checkpoint_does(cli, lively, drawn, tmp_path, name):
    require_runtime(name)
    model, image = tmp_path / f"tiny{RUNTIMES[name].name_suffix}", min((drawn / "val").iterdir())
    assert cli("export", name, lively / "model.pt", "--output", model, "--no-verify").code == 0
    found = []
    for number, given in enumerate((lively / "model.pt", model)):
        options = ("--output", tmp_path / f"pictures{number}", "--json", tmp_path / f"{number}.json")
        predicted = cli("predict", given, image, *options, "--score-threshold", 0.5)
        assert predicted.code == 0, predicted.err
        assert (tmp_path / f"pictures{number}" / image.name).is_file()
        (row,) = json.loads((tmp_path / f"{number}.json").read_text())
        found.append({(each["label"], *map(round, each["box"])) for each in row["detections"]})
    assert len(found[0] & found[1]) > 0.9 * max(map(len, found)) > 0  # a side may lie between two whole pixels


def test_core_ml_is_said_not_to_run_here(cli, trained, drawn, tmp_path):
    require_runtime("coreml")
    result = cli("export", "coreml", trained / "best.pt", "--output", tmp_path / "tiny.mlpackage")
    assert result.code == 0, result.err
    assert "Core ML does not run here" in " ".join(result.out.split())
    refused = cli("predict", tmp_path / "tiny.mlpackage", drawn / "val")
    assert refused.code == 1 and "Core ML is there on Apple's systems only" in refused.err


def test_a_missing_package_is_one_sentence_with_the_command(cli, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    (tmp_path / "tiny.xml").write_text("<net/>")
    for command in (("export", "openvino", trained / "best.pt", "--no-verify"), ("eval", tmp_path / "tiny.xml")):
        result = cli(*command)
        assert result.code == 1
        assert result.err.strip() == "error: openvino is not installed; run: pip install 'ssdlite[openvino]'"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["opnvino"], "FORMAT is onnx, openvino, ncnn, litert, executorch, coreml, not 'opnvino'; did you mean"),
        (["ncnn", "--head", "nms"], "--head is raw for ncnn, not 'nms'"),
        (["openvino", "--output", "x.onnx"], "--output ends with .xml for openvino"),
        (["ncnn", "--no-verify", "--tolerance", "0.1"], "--tolerance has no effect with --no-verify"),
        (["onnx", "--head", "raw"], "for --head and --precision of ONNX use 'ssdlite export-onnx'"),
    ],
)
def test_wrong_choices_are_one_sentence(cli, arguments, said):
    name, *options = arguments
    result = cli("export", name, "no-such.pt", *options)
    assert result.code == 2 and said in result.err and len(result.err.strip().splitlines()) == 1


def test_onnx_is_the_other_verb_with_its_defaults(cli, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        "ssdlite.commands.export.run_export_onnx", lambda *given, **options: calls.append((given, options))
    )
    assert cli("export", "onnx", tmp_path / "best.pt", "--no-verify").code == 0
    assert cli("export-onnx", tmp_path / "best.pt", "--no-verify").code == 0
    assert calls[0] == calls[1]


def test_a_file_without_its_document_is_one_sentence(cli, drawn, tmp_path):
    require_runtime("ncnn")
    (tmp_path / "tiny.ncnn.param").write_text("7767517\n")
    result = cli("predict", tmp_path / "tiny.ncnn.param", drawn / "val")
    assert result.code == 1 and "needs tiny.ncnn.param.json beside it" in result.err
