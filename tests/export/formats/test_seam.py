"""A runtime that the package does not know: a `Runtime` and its place in the registry are all that it needs."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from ssdlite.errors import ConfigError
from ssdlite.export.formats import registry
from ssdlite.export.formats.base import Runtime
from ssdlite.export.formats.opencv import OpenCvSession


def convert(conversion, path: Path) -> dict[str, str]:
    """OpenCV with a suffix of its own."""
    onnx.save(conversion.onnx(), path)
    return conversion.properties()


TOY = Runtime(
    name="toy",
    program="Toy",
    suffix=".toy",
    heads=("decoded", "raw"),
    precisions=("fp32",),
    modules=("cv2",),
    distributions=("onnx",),
    convert=convert,
    open=OpenCvSession,
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(registry.RUNTIMES, "toy", TOY)


def test_it_is_written_verified_evaluated_and_predicts(cli, lively, drawn, tmp_path):
    path = tmp_path / "model.toy"
    result = cli("export", "toy", lively / "model.pt", "--output", path)
    assert result.code == 0, result.err
    document = json.loads((tmp_path / "model.toy.json").read_text())
    assert (
        document["format"] == "toy"
        and document["proof"]["passed"]
        and set(document["versions"]) > {"onnx", "torch"}
    )
    assert "AP" in cli("eval", path, f"data={drawn}", "--no-report").out
    results = {}
    for model in (path, lively / "model.pt"):
        options = ["--no-pictures", "--json", tmp_path / "found.json", "--score-threshold", "0.05"]
        assert cli("predict", model, drawn / "val", *options).code == 0
        results[model] = json.loads((tmp_path / "found.json").read_text())
    for ours, theirs in zip(*results.values(), strict=True):
        assert [each["label"] for each in ours["detections"]] == [each["label"] for each in theirs["detections"]]


def test_its_name_and_choices_are_known(cli, lively, tmp_path):
    assert (
        "FORMAT is onnx, openvino, ncnn, litert, executorch, coreml, toy, not 'tory'"
        in cli("export", "tory", lively / "model.pt").err
    )
    assert registry.runtime_of(Path("A.TOY")) is TOY and TOY.is_installed
    with pytest.raises(ConfigError, match=r"--output ends with \.toy for toy"):
        registry.require_choice(TOY, tmp_path / "a.onnx", "raw", "fp32")
    with pytest.raises(ConfigError, match="--precision is fp32 for toy, not 'fp16'"):
        registry.require_choice(TOY, tmp_path / "a.toy", "raw", "fp16")
