import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ssdlite.export.onnx.graph import RUNTIMES, needs, obstacles
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.verify.verify import describe, failed_report_path, report_path, write_report

from ..conftest import HEADS, SIZE


def test_a_file_is_described(files, tmp_path, detector):
    described = describe(files["raw-levels"].read_bytes())
    assert described["bytes"] == files["raw-levels"].stat().st_size
    assert (described["opset"], described["ir_version"]) == (18, 8)
    assert described["inputs"] == {"images": {"type": "float32", "shape": ["batch", 3, *SIZE]}}
    assert described["outputs"]["logits_1"] == {"type": "float32", "shape": ["batch", 6 * 4, 3, 4]}
    assert described["operators"]["Conv"] == 88 and "Concat" not in described["operators"]
    np.testing.assert_allclose(described["priors"], detector.priors.numpy(), rtol=1e-6)
    assert "priors" not in describe(files["nms"].read_bytes())
    write_report(tmp_path / "new" / "report.json", described, None)
    document = json.loads((tmp_path / "new" / "report.json").read_text())
    assert document["proof"] is None and document["names"] == ["Maß", "dog", "train"]
    assert str(Path.cwd()) not in (tmp_path / "new" / "report.json").read_text()


def test_where_reports_lie():
    assert report_path(Path("a/best.onnx")) == Path("a/best.onnx.json")
    assert failed_report_path(Path("a/best.onnx")) == Path("a/best.onnx.failed.json")


def test_which_runtimes_have_all_of_it(files):
    everything = {runtime.name: [] for runtime in RUNTIMES}
    assert obstacles({"Conv"}) == everything
    assert obstacles(needs(onnx.load(files["tensor"]))) == everything
    assert obstacles(needs(onnx.load(files["nms"]))) == everything | {"OpenCV 4": ["NonMaxSuppression"]}
    half = onnx.ModelProto()
    half.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float16), "w"))
    assert obstacles(needs(half)) == everything | {"OpenCV 4": ["float16"]}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("column", "engine"), [("OpenCV 5", "ENGINE_NEW"), ("OpenCV 4", "ENGINE_CLASSIC")])
def test_opencv_answers_as_its_column_says(files, images, head, column, engine):
    """OpenCV 5 contains the engine of OpenCV 4 too."""
    if not hasattr(cv2.dnn, engine) and column == "OpenCV 5":
        pytest.skip("OpenCV 4 is installed")
    if obstacles(needs(onnx.load(files[head])))[column]:
        pytest.skip(f"{column} lacks something of head {head}")
    expected = OnnxPredictor(files[head]).run(images[:1])
    network = cv2.dnn.readNetFromONNX(str(files[head]), *filter(None, [getattr(cv2.dnn, engine, None)]))
    network.setInput(images[:1].astype(np.float32))
    for (output, value), found in zip(expected.items(), network.forward(list(expected)), strict=True):
        np.testing.assert_allclose(found.reshape(value.shape), value, rtol=1e-3, atol=1e-3, err_msg=output)
