"""Real networks give here what they gave in TensorFlow and TensorFlow.js; the comparison notices if they do not.

`make test-parity` fetches the networks. What needs TensorFlow's is skipped unless SSDLITE_PARITY_GRAPH names
frozen_inference_graph.pb or its folder, and what needs that of TensorFlow.js unless SSDLITE_PARITY_PACKAGE names
the npm package or its folder.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from torch import nn

from ssdlite.build.load import load_model
from ssdlite.config.schema import parse_options
from ssdlite.errors import CheckpointError, FetchError
from ssdlite.fetch import packages
from ssdlite.importers import tensorflow, tfjs
from ssdlite.importers.pretrained import build_imported
from ssdlite.models.detector import Detector
from ssdlite.models.variants import TENSORFLOW
from ssdlite.structures import Detections

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("check_parity")


@pytest.fixture(scope="module")
def parity(script: ModuleType) -> ModuleType:
    return importlib.import_module("parity")


@pytest.fixture(scope="module")
def download(script: ModuleType) -> ModuleType:
    return importlib.import_module("download_pedestrian")


@pytest.fixture(scope="module")
def graph(download: ModuleType) -> Path:
    path = Path(os.environ.get("SSDLITE_PARITY_GRAPH") or "absent")
    path = path / download.GRAPH if path.is_dir() else path
    if not path.is_file():
        pytest.skip(f"SSDLITE_PARITY_GRAPH does not name {download.GRAPH}; 'make test-parity' fetches it")
    return path


@pytest.fixture(scope="module")
def detector(graph: Path) -> Detector:
    return build_imported(tensorflow.read_graph(graph))


@pytest.fixture
def failing(script: ModuleType, parity: ModuleType, tmp_path: Path) -> Callable[[Detector], set[str]]:
    """What of priors, encodings and logits a network gets wrong."""
    reference = parity.read_reference(script.REFERENCE)
    images = script.write_images(tmp_path, reference)

    def run(detector: Detector) -> set[str]:
        checks = parity.check_network(detector.eval(), reference, images)
        print(parity.as_table(checks))
        return {check.what for check in checks if not check.passed}

    return run


def test_gives_tensorflows_answers(script: ModuleType, parity: ModuleType, graph: Path, tmp_path: Path):
    checks = script.check_all(graph, tmp_path)
    print(parity.as_table(checks))
    assert [check.what for check in checks if not check.passed] == []
    assert {"class logits", "PyTorch: unmatched", "ONNX: unmatched"} <= {check.what for check in checks}


def test_notices_symmetric_padding(failing: Callable[[Detector], set[str]], detector: Detector):
    wrong = Detector(replace(TENSORFLOW, padding="symmetric"), num_classes=1, input_size=(300, 300))
    wrong.load_state_dict(detector.state_dict())
    assert failing(wrong) == {"box encodings", "class logits"}


def test_notices_another_eps(failing: Callable[[Detector], set[str]], detector: Detector):
    wrong = copy.deepcopy(detector)
    for module in wrong.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    assert failing(wrong) == {"box encodings", "class logits"}


def test_notices_another_order_of_priors(
    failing: Callable[[Detector], set[str]], graph: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tensorflow, "PRIOR_ORDER", (0, 1, 2, 3, 4, 5))
    with pytest.raises(CheckpointError, match="other priors"):  # the graph itself knows better
        tensorflow.read_graph(graph)
    monkeypatch.setattr(tensorflow, "_require_published", lambda graph: None)
    wrong = build_imported(tensorflow.read_graph(graph))
    assert failing(wrong) == {"box encodings", "class logits"}


def test_notices_exchanged_axes(
    failing: Callable[[Detector], set[str]], graph: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tensorflow, "CODE_ORDER", (0, 1, 2, 3))
    wrong = build_imported(tensorflow.read_graph(graph))
    assert failing(wrong) == {"box encodings"}


def test_notices_other_priors(failing: Callable[[Detector], set[str]], detector: Detector):
    """The .3333 that TensorFlow writes for a third moves corners by .005 pixels."""
    levels = tuple(
        replace(
            level,
            shapes=tuple(
                shape._replace(aspect=1 / 3 if shape.aspect == 0.3333 else shape.aspect) for shape in level.shapes
            ),
        )
        for level in TENSORFLOW.prior_levels
    )
    wrong = Detector(replace(TENSORFLOW, prior_levels=levels), num_classes=1, input_size=(300, 300))
    wrong.load_state_dict(detector.state_dict())
    assert failing(wrong) == {"priors, pixels"}


@pytest.fixture(scope="module")
def package(script: ModuleType) -> Path:
    path = Path(os.environ.get("SSDLITE_PARITY_PACKAGE") or "absent")
    path = next(path.glob("*.tgz"), path / "absent") if path.is_dir() else path
    if not path.is_file():
        pytest.skip("SSDLITE_PARITY_PACKAGE does not name the npm package; 'make test-parity' fetches it")
    return script.cached_package(script.COCO_PACKAGE, path.parent, path)


@pytest.fixture(scope="module")
def coco(package: Path) -> Detector:
    return build_imported(tfjs.read_graph_model(package))


@pytest.fixture
def failing_tfjs(script: ModuleType, parity: ModuleType, tmp_path: Path) -> Callable[[Detector], set[str]]:
    """What of priors, encodings and logits a network gets wrong."""
    reference = parity.read_reference(script.TFJS_REFERENCE)
    images = script.write_tfjs_images(tmp_path, reference)

    def run(detector: Detector) -> set[str]:
        checks = parity.check_network(detector.eval(), reference, images, parity.TFJS_LIMIT)
        print(parity.as_table(checks))
        return {check.what for check in checks if not check.passed}

    return run


def test_gives_the_answers_of_tensorflow_js(script: ModuleType, parity: ModuleType, package: Path, tmp_path: Path):
    checks = script.check_tfjs(package, tmp_path)
    print(parity.as_table(checks))
    assert [check.what for check in checks if not check.passed] == []
    assert {"COCO, class logits", "COCO, PyTorch: unmatched"} <= {check.what for check in checks}


def test_tfjs_notices_symmetric_padding(failing_tfjs: Callable[[Detector], set[str]], coco: Detector):
    wrong = Detector(replace(TENSORFLOW, padding="symmetric"), num_classes=80, input_size=(300, 300))
    wrong.load_state_dict(coco.state_dict())
    assert failing_tfjs(wrong) == {"box encodings", "class logits"}


@pytest.mark.parametrize("part", ["backbone", "head"])
def test_tfjs_notices_another_eps(failing_tfjs: Callable[[Detector], set[str]], coco: Detector, part: str):
    """Of merged norms and of whole ones."""
    wrong = copy.deepcopy(coco)
    for module in wrong.get_submodule(part).modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    assert failing_tfjs(wrong) == {"box encodings", "class logits"}


@pytest.mark.parametrize(
    ("name", "order", "wrong"),
    [
        ("PRIOR_ORDER", (0, 1, 2, 3, 4, 5), {"box encodings", "class logits"}),
        ("CODE_ORDER", (0, 1, 2, 3), {"box encodings"}),
    ],
)
def test_tfjs_notices_another_order(
    failing_tfjs: Callable[[Detector], set[str]],
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    order: tuple[int, ...],
    wrong: set[str],
):
    monkeypatch.setattr(tensorflow, name, order)
    monkeypatch.setattr(tfjs, "_require_priors", lambda model, size: None)  # which knows the order of priors itself
    assert failing_tfjs(build_imported(tfjs.read_graph_model(package))) == wrong


def test_tfjs_notices_classes_that_moved(
    failing_tfjs: Callable[[Detector], set[str]], package: Path, monkeypatch: pytest.MonkeyPatch
):
    ids = {number + (number > 11): name for number, name in enumerate(tfjs.COCO_CATEGORIES.values(), 1)}
    monkeypatch.setattr(tfjs, "COCO_CATEGORIES", ids)
    assert failing_tfjs(build_imported(tfjs.read_graph_model(package))) == {"class logits"}


@pytest.mark.parametrize("option", ["eval.iou_threshold=0.3", "eval.max_detections=2"])
def test_notices_another_choice_of_detections(
    option: str, script: ModuleType, parity: ModuleType, graph: Path, tmp_path: Path
):
    reference = parity.read_reference(script.REFERENCE)
    images = script.write_images(tmp_path, reference)
    model = load_model(
        script.import_graph(graph, tmp_path / "pedestrian.pt"), parse_options([option]), device="cpu"
    )
    checks = parity.check_detections("x", model, images, reference, parity.SAME_PIXELS)
    assert "x: unmatched" in {check.what for check in checks if not check.passed}


def test_notices_another_resize(
    script: ModuleType, parity: ModuleType, graph: Path, tmp_path: Path, real_data: Path
):
    reference = parity.read_reference(script.REFERENCE)
    model = load_model(script.import_graph(graph, tmp_path / "pedestrian.pt"), device="cpu")
    assert model.alignment == "asymmetric"
    wrong = replace(model, alignment="half_pixel")
    checks = parity.check_detections("x", wrong, script.coco_images(), reference, parity.RESIZED)
    assert "x: 1 - IoU" in {check.what for check in checks if not check.passed}


def detections(*rows: tuple[float, float]) -> Detections:
    """10×10 boxes: (x1, score)."""
    boxes = np.array([[x, 0, x + 10, 10] for x, _ in rows], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([score for _, score in rows], np.float32), np.ones(len(rows), np.int64))


def compare(parity: ModuleType, found: Detections, expected: Detections) -> list[float]:
    """Of boxes above .5, those between .4 and .6 being optional: unmatched, 1 - IoU, score."""
    tolerance = parity.Tolerance(threshold=0.5, band=0.1, overlap=0.01, score=0.01)
    return [check.difference for check in parity.compare_detections("x", "y", found, expected, tolerance)]


def test_detections_are_matched_one_to_one(parity: ModuleType):
    # The boxes at 0 and 1 overlap by 9/11; the one at 50 has no partner, those below .6 need none.
    found = detections((0, 0.9), (50, 0.8), (80, 0.55))
    expected = detections((1, 0.7), (20, 0.45), (30, 0.3))
    assert compare(parity, found, expected) == pytest.approx([1, 2 / 11, 0.2])
    assert compare(parity, expected, found) == pytest.approx([1, 2 / 11, 0.2])


def test_two_detections_cannot_share_a_partner(parity: ModuleType):
    assert compare(parity, detections((0, 0.9), (0, 0.8)), detections((0, 0.9))) == [1, 0, 0]


def test_partners_are_of_one_class(parity: ModuleType):
    found, expected = detections((0, 0.9)), detections((0, 0.9))
    found.labels[:] = 2
    assert compare(parity, found, expected) == [2, 0, 0]


def test_a_partner_may_lie_inside_the_band(parity: ModuleType):
    assert compare(parity, detections((0, 0.65)), detections((0, 0.45))) == pytest.approx([0, 0, 0.2])


def test_no_detections(parity: ModuleType):
    none = detections()
    assert compare(parity, none, none) == [0, 0, 0]
    assert compare(parity, none, detections((0, 0.9))) == [1, 0, 0]


def test_nan_fails(parity: ModuleType):
    assert not parity.Check("x", float("nan"), 1e-3, "y").passed


def test_reference_has_every_level_and_shape(parity: ModuleType, script: ModuleType):
    reference = parity.read_reference(script.REFERENCE)
    detector = Detector(TENSORFLOW, num_classes=1, input_size=(300, 300))
    order = parity.reference_order(detector)
    assert sorted(order) == list(range(1917))
    sizes = {tuple(size) for size in detector.priors[order[reference.kept], 2:].tolist()}
    assert len(sizes) == sum(len(level.shapes) for level in TENSORFLOW.prior_levels)
    assert sum(len(rows) for rows in reference.detections.values()) > 20


def test_another_wheel_is_refused(download: ModuleType, tmp_path: Path):
    wheel = tmp_path / "other.whl"
    wheel.write_bytes(b"other")
    with pytest.raises(FetchError, match="SHA-256"):
        download.fetch_graph(tmp_path, wheel)
    with pytest.raises(FetchError, match="cannot be read"):
        download.fetch_graph(tmp_path, tmp_path / "absent.whl")


def test_without_a_network(download: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    says = "import sys; sys.exit('WARNING: retrying\\nERROR: no matching distribution')"
    monkeypatch.setattr(packages, "PIP", (sys.executable, "-c", says))
    with pytest.raises(FetchError, match=r"\(no matching distribution\).*--wheel"):
        download.fetch_graph(tmp_path)
    assert not list(tmp_path.iterdir())
