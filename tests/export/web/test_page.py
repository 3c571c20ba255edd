"""The page as text: its contents, and that no name in it can become markup or code."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

import onnx
import pytest

from ssdlite.errors import ConfigError
from ssdlite.export.metadata import FileForm
from ssdlite.export.onnx.model import build_model
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.web.page import FOLDER, LIBRARY, SCRIPTS, WASM, build_page, find_runtime, require_page

from ..conftest import DECODER, METADATA, SIZE
from .conftest import HOSTILE_NAMES


class Parsed(HTMLParser):
    """Parser that collects the elements of a page: (tag, attributes, text)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.within = False  # the latest element, not behind its end
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        self.within = True

    def handle_endtag(self, tag):
        self.within = False

    def handle_data(self, data):
        if self.within:
            self.elements[-1][2].append(data)

    def all(self, tag):
        return [(attributes, "".join(text)) for name, attributes, text in self.elements if name == tag]

    def data(self, identity):
        return next(text for attributes, text in self.all("script") if attributes.get("id") == identity)


@pytest.fixture
def build(fake_runtime):
    def build(model, title="A title"):
        return build_page(model.read_bytes(), OnnxPredictor(model), find_runtime(fake_runtime), title)

    return build


def unpack(text):
    return gzip.decompress(base64.b64decode(text))


def test_everything_is_inside(build, files, fake_runtime):
    parsed = Parsed(build(files["nms"]))
    assert unpack(parsed.data("model")) == files["nms"].read_bytes()
    assert unpack(parsed.data("library")) == (fake_runtime / LIBRARY).read_bytes()
    assert unpack(parsed.data("wasm")) == (fake_runtime / WASM).read_bytes()
    metadata = json.loads(parsed.data("card"))
    assert metadata["names"] == list(METADATA.class_names) and metadata["size"] == list(SIZE)
    assert (metadata["alignment"], metadata["threshold"], metadata["runtime"]) == ("half_pixel", 0.5, "9.8.7")
    assert metadata["metrics"] == {"AP": 0.5}  # the figure that is null is left out
    assert "Permission is hereby granted" in "".join(text for _, text in parsed.all("pre"))
    assert parsed.all("title")[0][1] == "A title" and parsed.all("h1")[0][1] == "A title"


def test_nothing_is_fetched_and_only_our_code_may_run(build, files):
    parsed = Parsed(build(files["nms"]))
    for tag, attributes, _ in parsed.elements:
        for name in ("src", "href", "srcset", "action", "style", "data"):
            assert attributes.get(name, "data:").startswith("data:"), f"{tag} {name}"
        assert not any(name.startswith("on") for name in attributes)
    (policy,) = (a["content"] for a, _ in parsed.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    allowed = {kind: set(sources) for kind, *sources in (part.split() for part in policy.split(";"))}
    code = [text for attributes, text in parsed.all("script") if "type" not in attributes]
    assert len(code) == len(SCRIPTS)
    assert allowed["script-src"] == {*map(digest, code), "'wasm-unsafe-eval'", "blob:"}
    assert allowed["style-src"] == {digest(text) for _, text in parsed.all("style")}
    assert allowed["default-src"] == {"'none'"} and "connect-src" not in allowed


def digest(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_hostile_words_stay_words(build, files, hostile_model):
    title = "</title></h1><script>pwned()</script>{{model}}"
    page, harmless = Parsed(build(hostile_model, title)), Parsed(build(files["nms"]))
    assert [tag for tag, *_ in page.elements] == [tag for tag, *_ in harmless.elements]
    assert json.loads(page.data("card"))["names"] == list(HOSTILE_NAMES)
    assert "<" not in page.data("card")
    assert page.all("title")[0][1] == title


def test_code_and_style_cannot_end_early():
    """Only a closing tag ends a script or a style."""
    for path in FOLDER.glob("*.[jc]s*"):
        text = path.read_text(encoding="utf-8").lower()
        assert "</script" not in text and "</style" not in text and "<!--" not in text, path.name


def test_every_part_that_the_code_names_is_there(build, files):
    page = build(files["nms"])
    named = {
        name for script in SCRIPTS for name in re.findall(r'part\("([\w-]+)"\)', (FOLDER / script).read_text())
    }
    assert named and named <= {attributes.get("id") for _, attributes, _ in Parsed(page).elements}


@pytest.mark.parametrize(
    "metrics", [{"AP": float("nan"), "AP50": True, "x": "y", "n": 10**400, "AP75": 0.25}, [1], None]
)
def test_figures_that_are_none_are_left_out(build, files, tmp_path, metrics):
    model = onnx.load(files["nms"])
    for entry in model.metadata_props:
        if entry.key == "ssdlite":
            entry.value = json.dumps({**json.loads(entry.value), "metrics": metrics})
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    metadata = json.loads(Parsed(build(path)).data("card"))
    assert metadata["metrics"] == ({"AP75": 0.25} if isinstance(metrics, dict) else {})


def test_a_tensorflow_network_is_aligned_as_it_asks(build, files, tmp_path):
    model = onnx.load(files["nms"])
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"half_pixel"', '"asymmetric"')
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert json.loads(Parsed(build(path)).data("card"))["alignment"] == "asymmetric"


@pytest.mark.parametrize("head", ["decoded", "raw"])
def test_other_heads_are_refused(files, head):
    with pytest.raises(ConfigError, match=rf"m.onnx has head '{head}'.*--head nms"):
        require_page(OnnxPredictor(files[head]), "m.onnx")


@pytest.mark.parametrize(("batch", "accepted"), [(1, True), (4, False)])
def test_a_page_gives_one_image_at_a_time(files, tmp_path, batch, accepted):
    model = onnx.load(files["nms"])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    path = tmp_path / "fixed.onnx"
    onnx.save(model, path)
    if accepted:
        require_page(OnnxPredictor(path), path)
    else:
        with pytest.raises(ConfigError, match=r"fixed.onnx takes 4 images at a time.*--batch 1"):
            require_page(OnnxPredictor(path), path)


@pytest.mark.parametrize("form", ["uint8-nchw", "float-nhwc"])
def test_other_inputs_are_refused(traced, detector, tmp_path, form):
    path = tmp_path / "other.onnx"
    file_form = FileForm("nms", input=form)
    onnx.save(build_model(traced, detector, form=file_form, decoder=DECODER, metadata=METADATA), path)
    with pytest.raises(ConfigError, match=rf"other.onnx takes pixels as {form}, .*with the default input"):
        require_page(OnnxPredictor(path), path)
