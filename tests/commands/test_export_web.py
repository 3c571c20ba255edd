"""`export-web` as a person types it; what the page does in a browser is in tests/export/web."""

import base64
import gzip
import re
import shutil

import onnx
import pytest

from ssdlite.commands.console import console
from ssdlite.commands.export import run_export_web
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.web.page import LIBRARY, WASM


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """What is taken for ONNX Runtime Web."""
    folder = tmp_path_factory.mktemp("runtime")
    (folder / LIBRARY).write_bytes(b"/*! ONNX Runtime Web v9.8.7 */")
    (folder / WASM).write_bytes(b"\0asm")
    return folder


def model_in(page):
    packed = re.search(r'id="model">([^<]*)<', page.read_text(encoding="utf-8"))[1]
    return gzip.decompress(base64.b64decode(packed))


@pytest.fixture(scope="module")
def checkpoint(known, tmp_path_factory):
    """Of a network that knows its data, as if a run of the name tiny had given it."""
    path = tmp_path_factory.mktemp("runs") / "tiny" / "best.pt"
    path.parent.mkdir()
    return shutil.copy(known.model, path)


@pytest.fixture(scope="module")
def from_checkpoint(checkpoint, runtime, tmp_path_factory):
    """Its page, and what a person sees meanwhile. Exporting takes most of the time of this file."""
    page = tmp_path_factory.mktemp("page") / "new" / "page.html"
    with console.capture() as screen:
        run_export_web(checkpoint, {}, output=page, runtime_dir=runtime, title=None, verify=True)
    return page, screen.get()


@pytest.fixture(scope="module")
def exported(from_checkpoint, tmp_path_factory):
    """The file that is in that page."""
    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    path.write_bytes(model_in(from_checkpoint[0]))
    return path


def test_a_checkpoint_is_exported_and_compared_first(from_checkpoint, exported):
    page, screen = from_checkpoint
    assert "Agrees with PyTorch on 8 validation images" in screen
    assert f"Wrote {page}" in screen and ".onnx" not in screen and "ONNX Runtime Web 9.8.7" in screen
    assert "<title>tiny</title>" in page.read_text(encoding="utf-8")  # the name of its run
    assert "heart" in OnnxPredictor(exported).class_names


def test_an_exported_file_is_put_in_as_it_is(cli, exported, runtime):
    result = cli("export-web", exported, "--runtime", runtime, "--title", "Shapes & more")
    assert result.code == 0, result.err
    page = exported.with_suffix(".html")
    assert model_in(page) == exported.read_bytes()
    assert "<title>Shapes &amp; more</title>" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["none.onnx", "--runtime", "RUNTIME"], 1, "there is no model file none.onnx"),
        (["none.pt", "--runtime", "RUNTIME"], 1, "there is no checkpoint none.pt"),
        (["MODEL", "--runtime", "gone"], 1, "in gone; run 'npm install onnxruntime-web' in this folder"),
        (["MODEL"], 1, "ONNX Runtime Web (ort.wasm.bundle.min.mjs and"),
        (
            ["MODEL", "eval.score_threshold=.2", "--runtime", "RUNTIME"],
            2,
            "eval.score_threshold has no effect on",
        ),
        (["MODEL", "--no-verify", "--runtime", "RUNTIME"], 2, "--no-verify has no effect on"),
        (["MODEL", "--runtime", "RUNTIME", "--output", "."], 1, "cannot write .: it is a folder"),
        (["MODEL", "--runtime", "RUNTIME", "--output", "page.onnx"], 2, "--output ends with .html"),
        (["CHECKPOINT", "eval.iou=1", "--runtime", "RUNTIME"], 2, "unknown option 'eval.iou'"),
    ],
)
def test_mistakes_get_one_sentence(
    cli, checkpoint, exported, runtime, tmp_path, monkeypatch, arguments, code, sentence
):
    monkeypatch.chdir(tmp_path)
    words = {"MODEL": exported, "CHECKPOINT": checkpoint, "RUNTIME": runtime}
    result = cli("export-web", *(words.get(argument, argument) for argument in arguments))
    assert (result.code, sentence in result.err) == (code, True), result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_file_that_the_page_cannot_feed_is_refused(cli, exported, runtime, tmp_path):
    model = onnx.load(exported)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    path = tmp_path / "four.onnx"
    onnx.save(model, path)
    result = cli("export-web", path, "--runtime", runtime)
    assert result.code == 2 and "four.onnx takes 4 images at a time" in result.err
    assert not path.with_suffix(".html").exists()
