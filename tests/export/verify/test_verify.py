import copy
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.helper import make_node

from ssdlite.data.images import read_image, resize
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.verify.compare import Tolerance, verify_onnx

from ..conftest import HEADS, SIZE, shift_mean, shift_priors, swap_channels


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("plant", [shift_mean, swap_channels, shift_priors])
def test_planted_errors_of_the_network_are_found(files, detector, images, head, plant):
    wrong = copy.deepcopy(detector)
    with torch.no_grad():
        plant(wrong)
    verification = verify_onnx(files[head], wrong, images)
    assert not verification.passed
    assert not verification.worst.passed and verification.worst.quantity in verification.summary


@pytest.mark.parametrize("head", ["nms", "tensor", "decoded"])
@pytest.mark.parametrize("variance", [0.1, 0.2])
def test_a_wrong_variance_is_found(files, detector, images, tmp_path, head, variance):
    model = onnx.load(files[head])
    changed = [
        t for t in model.graph.initializer if t.dims == [] and np.isclose(numpy_helper.to_array(t), variance)
    ]
    assert changed
    for tensor in changed:
        tensor.CopyFrom(numpy_helper.from_array(np.array(1.1 * variance, np.float32), tensor.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    verification = verify_onnx(tmp_path / "wrong.onnx", detector, images)
    assert not verification.passed and "boxes differ" in verification.summary


def only_first_image(model, head):
    """Suppression as some tools export it, which ignores all images of a batch but the first."""
    graph = model.graph
    constants = {"first": np.array(0), "first_row": np.array([1]), "start": np.array([0]), "axis": np.array([0])}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    if head == "nms":
        (node,) = (node for node in graph.node if node.op_type == "NonMaxSuppression")
        node.output[0] = "all_indices"
        made = [
            make_node("Gather", ["all_indices", "first"], ["image_of_row"], axis=1),
            make_node("Equal", ["image_of_row", "first"], ["is_first"]),
            make_node("Compress", ["all_indices", "is_first"], ["kept_indices"], axis=0),
        ]
    else:
        (node,) = (node for node in graph.node if node.output[0] == "suppresses_BMM")
        node.output[0] = "all_suppress"
        made = [
            make_node("Slice", ["all_suppress", "start", "first_row", "axis"], ["head"]),
            make_node("Slice", ["all_suppress", "first_row", "many", "axis"], ["tail"]),
            make_node("Sub", ["tail", "tail"], ["none_in_tail"]),
            make_node("Concat", ["head", "none_in_tail"], ["suppresses_BMM"], axis=0),
        ]
        graph.initializer.append(numpy_helper.from_array(np.array([1000]), "many"))
    nodes = list(graph.node)
    place = nodes.index(node) + 1
    del graph.node[:]
    graph.node.extend([*nodes[:place], *made, *nodes[place:]])


@pytest.mark.parametrize(("head", "problem"), [("nms", "missing"), ("tensor", "should have suppressed each other")])
def test_suppression_of_the_first_image_only_is_found(files, detector, images, tmp_path, head, problem):
    model = onnx.load(files[head])
    only_first_image(model, head)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "wrong.onnx")
    verification = verify_onnx(tmp_path / "wrong.onnx", detector, images)
    assert not verification.passed and all("at batch 4" in found for found in verification.problems)
    assert problem in " ".join(verification.problems)


@pytest.mark.parametrize("head", ["nms", "tensor"])
@pytest.mark.parametrize(
    ("constant", "value", "problem"),
    [
        ("iou_threshold", 0.6, "should have suppressed each other"),
        ("iou_threshold", 0.4, "missing"),
        ("score_threshold", 0.6, "missing"),
        ("score_threshold", 0.4, "scores that are too low"),
        ("num_candidates", 10, "missing"),
    ],
)
def test_planted_errors_of_the_suppression_are_found(
    files, detector, images, tmp_path, head, constant, value, problem
):
    model = onnx.load(files[head])
    names = {"num_candidates": ("num_candidates", "last_candidate")}.get(constant, (constant,))
    for tensor in model.graph.initializer:
        if tensor.name in names:
            kind = numpy_helper.to_array(tensor).dtype
            change = value - 1 if tensor.name == "last_candidate" else value
            tensor.CopyFrom(numpy_helper.from_array(np.array([change], kind), tensor.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    verification = verify_onnx(tmp_path / "wrong.onnx", detector, images)
    assert not verification.passed and problem in " ".join(verification.problems)
    assert problem in verification.summary or "more" in verification.summary


def replace_input(model: onnx.ModelProto, operator: str, old: str, new: str) -> None:
    (node,) = (node for node in model.graph.node if node.op_type == operator and node.input[0] == old)
    node.input[0] = new


@pytest.mark.parametrize(
    ("operator", "old", "new", "problem"),
    [
        ("NonMaxSuppression", "boxes", "clipped_boxes", "detections are missing"),
        ("GatherElements", "clipped_boxes", "boxes", "boxes differ"),
        ("Transpose", "seen_scores_BPK", "scores", "have no area"),
    ],
)
def test_planted_errors_at_the_border_are_found(files, detector, images, tmp_path, operator, old, new, problem):
    """Clipping before suppression, no clipping, and boxes outside the image that enter suppression."""
    model, path = onnx.load(files["nms"]), tmp_path / "moved.onnx"
    moved = move_boxes(detector, model, pixels=-40)
    onnx.save(model, path)
    assert verify_onnx(path, moved, images).passed
    replace_input(model, operator, old, new)
    onnx.save(model, path)
    verification = verify_onnx(path, moved, images)
    assert not verification.passed
    assert problem in " ".join([*verification.problems, *map(str, verification.differences)])


def move_boxes(detector, model, pixels):
    """Move all priors of the network, and of its file in place, to the right by `pixels`."""
    moved = copy.deepcopy(detector)
    centers = detector.priors[:, :2].numpy()
    (tensor,) = (t for t in model.graph.initializer if np.array_equal(numpy_helper.to_array(t), centers))
    moved.priors[:, 0] += pixels
    tensor.CopyFrom(numpy_helper.from_array(moved.priors[:, :2].numpy(), tensor.name))
    return moved


def test_a_right_file_passes(files, detector, images):
    verification = verify_onnx(files["nms"], detector, images)
    assert verification.passed and verification.num_detections > 100
    assert [difference.quantity for difference in verification.differences] == [
        "logits",
        "deltas",
        "boxes",
        "scores",
    ]
    assert verification.worst.largest < 1e-3 and verification.to_dict()["passed"]
    # One image more than a whole batch, and a single one, which is repeated to fill it but counted once.
    assert verify_onnx(files["nms"], detector, images[:5]).passed
    single = verify_onnx(files["nms"], detector, images[:1])
    count = OnnxPredictor(files["nms"]).run(images[:1])["num_detections"]
    assert single.passed and single.num_detections == count[0]


def test_tolerance_is_what_may_be_off_beyond_rounding(files, detector, images):
    other = copy.deepcopy(detector)
    with torch.no_grad():
        other.normalize.mean += 0.01
    assert not verify_onnx(files["raw"], other, images).passed
    assert verify_onnx(files["raw"], other, images, Tolerance(raw=1, boxes=1, scores=1)).passed


def test_a_network_that_gives_no_numbers_does_not_pass(files, detector, images):
    broken = copy.deepcopy(detector)
    with torch.no_grad():
        broken.head.regression[0][-1].bias[0] = float("nan")
    for head in HEADS:
        assert not verify_onnx(files[head], broken, images).passed


def test_nothing_found_passes_with_a_warning(files, detector, images, tmp_path, caplog):
    model = onnx.load(files["nms"])
    for tensor in model.graph.initializer:
        if tensor.name == "score_threshold":
            tensor.CopyFrom(numpy_helper.from_array(np.array([1], np.float32), tensor.name))
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"score_threshold": 0.5', '"score_threshold": 1.0')
    onnx.save(model, tmp_path / "none.onnx")
    assert verify_onnx(tmp_path / "none.onnx", detector, images).passed
    assert "the 6 images have no detections" in caplog.text


def test_real_images(files, detector):
    if "SSDLITE_TEST_DATA" not in os.environ:
        pytest.skip("SSDLITE_TEST_DATA names no folder with bccd/")
    paths = sorted(Path(os.environ["SSDLITE_TEST_DATA"], "bccd", "JPEGImages").glob("*.jpg"))[:5]
    images = np.stack([resize(read_image(path), SIZE).transpose(2, 0, 1) for path in paths])
    for head in HEADS:
        assert verify_onnx(files[head], detector, images).passed
