"""Both kinds of suppression nodes, compared with the Decoder and with the NumPy of `export.runtime`."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from ssdlite import boxes as box_ops
from ssdlite.export.metadata import OUTPUT_NAMES, Selection
from ssdlite.export.onnx.nms import ROUNDS, append_nms, limit_candidates
from ssdlite.export.predictor import select
from ssdlite.export.runtime import decode_boxes
from ssdlite.models.decode import Decoder, decode_output
from ssdlite.structures import Detections, HeadOutput

from ..conftest import assert_same_detections

SIZE = (80, 100)
SELECTION = Selection(score_threshold=0.05, iou_threshold=0.45, candidates_per_class=400, max_detections=50)
PRIOR = (50.0, 40.0, 20.0, 20.0)


def run_nms(boxes: np.ndarray, scores: np.ndarray, selection: Selection) -> list[Detections]:
    """Run boxes (B, P, 4) and scores (B, P, K) through a graph of suppression nodes only."""
    values = {"boxes": boxes, "scores": scores}
    nodes = [make_node("Identity", [f"{name}_in"], [name]) for name in values]
    inputs, outputs = (
        [make_tensor_value_info(name + end, TensorProto.FLOAT, value.shape) for name, value in values.items()]
        for end in ("_in", "")
    )
    model = make_model(
        make_graph(nodes, "nms", inputs, outputs), opset_imports=[make_opsetid("", 16)], ir_version=8
    )
    append_nms(model, selection, SIZE)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = session.run(OUTPUT_NAMES["nms"], {f"{name}_in": value for name, value in values.items()})
    return [Detections(b[:n], s[:n], labels[:n] + 1) for b, s, labels, n in zip(*rows, strict=True)]


def head_output(boxes: list[list[float]], scores: list[tuple[float, ...]]) -> HeadOutput:
    """Return an output that decodes to `boxes` and to sigmoid `scores` of their classes."""
    priors = torch.tensor([PRIOR]).expand(len(boxes), 4)
    deltas = box_ops.encode(torch.tensor(boxes), priors)
    logits = torch.nn.functional.pad(torch.tensor(scores).logit(), (1, 0))
    return HeadOutput(logits[None], deltas[None], priors, "sigmoid")


def select_in_all_ways(output: HeadOutput, selection: Selection = SELECTION) -> list[Detections]:
    """Return the detections of the first image from the Decoder, NumPy, and both kinds of nodes."""
    options = {name: value for name, value in dataclasses.asdict(selection).items() if name != "candidates"}
    decoder = Decoder(SIZE, **options)
    boxes, scores = (tensor.numpy() for tensor in decode_output(output, SIZE))
    from_deltas = decode_boxes(output.deltas.numpy(), output.priors.numpy(), (0.1, 0.2), SIZE)
    np.testing.assert_allclose(from_deltas, boxes, atol=1e-4)
    return [
        decoder(output, [SIZE] * len(boxes))[0],
        select(from_deltas[0], scores[0], selection, SIZE),
        run_nms(boxes, scores, selection)[0],
        run_nms(boxes, scores, limit_candidates(selection, "tensor", *scores.shape[1:]))[0],
    ]


@pytest.mark.parametrize("candidates", [20, 400])
@pytest.mark.parametrize("seed", range(4))
def test_all_agree_where_many_boxes_leave_the_image(candidates, seed):
    generator = torch.Generator().manual_seed(seed)
    priors = torch.rand(300, 4, generator=generator) * torch.tensor([100, 80, 60, 60]) + torch.tensor([0, 0, 9, 9])
    deltas = torch.randn(1, 300, 4, generator=generator) * torch.tensor([8.0, 8, 3, 3])
    logits = torch.randn(1, 300, 4, generator=generator) * 2 - 2
    output = HeadOutput(logits, deltas, priors, "sigmoid")
    boxes = box_ops.decode(deltas, priors)
    clipped = box_ops.clip(boxes, SIZE)
    assert (boxes != clipped).any(-1).sum() > 100 and (box_ops.area(clipped) == 0).sum() > 10
    selection = dataclasses.replace(SELECTION, candidates_per_class=candidates)
    expected, *others = select_in_all_ways(output, selection)
    assert (expected.boxes[:, 2:] > expected.boxes[:, :2]).all() and len(expected.scores) == 50
    for found in others:
        assert_same_detections(found, expected)


def test_suppression_comes_before_clipping():
    """The boxes share 30 of 80 pixels; their parts inside the image are equal."""
    output = head_output([[-60, 10, 20, 30], [-10, 10, 20, 30]], [(0.9,), (0.8,)])
    for found in select_in_all_ways(output):
        np.testing.assert_allclose(found.scores, [0.9, 0.8], rtol=1e-5)
        np.testing.assert_allclose(found.boxes, [[0, 10, 20, 30]] * 2, atol=1e-4)


def test_a_box_outside_the_image_neither_counts_nor_suppresses():
    """In each pair, left of the image and below it, the first box is outside, the second reaches in 2 pixels."""
    boxes = [[-60, 10, -0.5, 30], [-58, 10, 2, 30], [10, 80.5, 30, 120], [10, 78, 30, 120]]
    output = head_output(boxes, [(0.9,), (0.8,), (0.7,), (0.6,)])
    for found in select_in_all_ways(output, dataclasses.replace(SELECTION, max_detections=2)):
        np.testing.assert_allclose(found.scores, [0.8, 0.6], rtol=1e-5)
        np.testing.assert_allclose(found.boxes, [[0, 10, 2, 30], [10, 78, 30, 80]], atol=1e-4)


def test_nothing_but_boxes_outside_the_image():
    for found in select_in_all_ways(head_output([[-60, 10, -1, 30]], [(0.9,)])):
        assert [len(part) for part in found] == [0, 0, 0]


def test_sizes_that_overflow_are_boxes_like_others():
    """The whole frame twice, of which one is suppressed, a bar, and a box without area."""
    deltas = torch.tensor([[[0, 0, 1e4, 1e4], [9, 0, 2e4, 1e4], [0, 0, 1e4, 0], [0, 0, -1e4, 0]]])
    output = HeadOutput(
        torch.tensor([[[0, 3], [0, 2], [0, 1.0], [0, 4]]]), deltas, torch.tensor([PRIOR]).expand(4, 4), "sigmoid"
    )
    for found in select_in_all_ways(output):
        np.testing.assert_allclose(found.boxes, [[0, 0, 100, 80], [0, 30, 100, 50]], atol=1e-4)
        np.testing.assert_allclose(found.scores, 1 / (1 + np.exp([-3, -1])), rtol=1e-5)


def staircase(count):
    """Return boxes, best first, each of which overlaps its predecessor by more than half and no other box."""
    x = np.arange(count, dtype=np.float32) * 3
    boxes = np.stack([x, 0 * x, x + 10, 0 * x + 10], axis=1)
    return boxes[None], np.linspace(0.9, 0.1, count, dtype=np.float32)[None, :, None]


def test_a_chain_as_long_as_there_are_rounds_is_decided_as_greedy_suppression_does():
    """Every second box is kept: the first suppresses the second, which would have suppressed the third."""
    boxes, scores = staircase(ROUNDS)
    selection = Selection(0.05, 0.5, 400, 100)
    (found,) = run_nms(boxes, scores, limit_candidates(selection, "tensor", ROUNDS, 1))
    (greedy,) = run_nms(boxes, scores, selection)
    np.testing.assert_array_equal(greedy.scores, scores[0, ::2, 0])
    np.testing.assert_array_equal(found.scores, greedy.scores)


def test_a_longer_chain_keeps_undecided_boxes_at_its_end():
    boxes, scores = staircase(ROUNDS + 6)
    (found,) = run_nms(boxes, scores, Selection(0.05, 0.5, 400, 100, candidates=ROUNDS + 6))
    decided = scores[0, :ROUNDS:2, 0]
    np.testing.assert_array_equal(found.scores[: len(decided)], decided)
    assert len(found.scores) == len(decided) + 6


@pytest.mark.parametrize("seed", range(3))
def test_fewer_candidates_than_there_are_give_the_first_detections(seed):
    """The boxes kept of the best 60 of 900 scores are the first ones kept of all 900."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 60, (2, 300, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + generator.uniform(5, 20, (2, 300, 2)).astype(np.float32)], axis=2)
    scores = generator.uniform(0, 1, (2, 300, 3)).astype(np.float32)
    selection = Selection(0.05, 0.3, 400, 30)
    for found, all_found in zip(
        run_nms(boxes, scores, dataclasses.replace(selection, candidates=60)),
        run_nms(boxes, scores, selection),
        strict=True,
    ):
        assert 10 < len(found.scores) <= len(all_found.scores)
        for part, whole in zip(found, all_found, strict=True):
            np.testing.assert_array_equal(part, whole[: len(part)])


def test_the_number_of_candidates_follows_from_the_selection():
    assert limit_candidates(SELECTION, "op", 2000, 3) == SELECTION
    assert limit_candidates(SELECTION, "tensor", 20, 3).candidates == 60
    assert limit_candidates(SELECTION, "tensor", 2000, 1).candidates == 400
    assert limit_candidates(SELECTION, "tensor", 2000, 3).candidates == 512
    many = dataclasses.replace(SELECTION, max_detections=400)
    assert limit_candidates(many, "tensor", 2000, 3).candidates == 800
