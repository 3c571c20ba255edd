import numpy as np
import pytest
import torch

from ssdlite import boxes as box_ops
from ssdlite.deploy.metadata import Selection
from ssdlite.deploy.postprocess import class_scores, decode_boxes, select_detections, suppress
from ssdlite.model.decode import Decoder
from ssdlite.structures import HeadOutput


def random_output(num_priors=300, num_classes=4, seed=0, activation="softmax"):
    generator = torch.Generator().manual_seed(seed)
    priors = torch.rand(num_priors, 4, generator=generator) * 60 + 20
    logits = torch.randn(2, num_priors, num_classes + 1, generator=generator) * 2
    return HeadOutput(logits, torch.randn(2, num_priors, 4, generator=generator), priors, activation)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("candidates", [20, 400])
@pytest.mark.parametrize("score_threshold", [0.05, 0.999])
def test_it_is_the_twin_of_the_decoder(candidates, score_threshold, activation):
    output, size = random_output(activation=activation), (80, 100)
    expected = Decoder(size, score_threshold, 0.45, candidates, max_detections=50)(output, [size] * 2)
    selection = Selection(score_threshold, 0.45, candidates, 50)
    boxes = decode_boxes(output.deltas.numpy(), output.priors.numpy(), (0.1, 0.2), size)
    scores = class_scores(output.logits.numpy(), activation)
    for image in range(2):
        found = select_detections(boxes[image], scores[image], selection, size)
        np.testing.assert_array_equal(found.labels, expected[image].labels)
        np.testing.assert_allclose(found.scores, expected[image].scores, atol=1e-6)
        np.testing.assert_allclose(found.boxes, expected[image].boxes, atol=1e-4)


def test_scores_by_hand():
    logits = np.array([[-5, 0, np.log(3)], [0, 1e4, -1e4]], np.float32)
    np.testing.assert_allclose(class_scores(logits, "sigmoid"), [[0.5, 0.75], [1, 0]], rtol=1e-6)
    total = np.exp(-5) + 1 + 3
    np.testing.assert_allclose(class_scores(logits, "softmax"), [[1 / total, 3 / total], [1, 0]], rtol=1e-6)


def test_decoding_undoes_encoding():
    priors = torch.tensor([[20.0, 20, 10, 10], [50, 40, 30, 20]])
    boxes = torch.tensor([[[12.0, 15, 30, 28], [40, 30, 70, 50]]])
    deltas = box_ops.encode(boxes, priors)
    np.testing.assert_allclose(decode_boxes(deltas.numpy(), priors.numpy(), (0.1, 0.2), (64, 80)), boxes, rtol=1e-5)


def test_an_overflowing_size_is_the_whole_frame():
    """One side of the image beyond it, where overlaps are numbers."""
    deltas = np.array([[0, 0, 1000, 1000], [0, 0, 1000, 0]], np.float32)
    boxes = decode_boxes(deltas, np.array([[5, 5, 4, 4]], np.float32), (0.1, 0.2), (32, 64))
    np.testing.assert_array_equal(boxes, [[-64, -32, 128, 64], [-64, 3, 128, 7]])
    assert suppress(boxes[[0, 0, 1]], 0.5).tolist() == [0, 2]


def test_suppression_by_hand():
    # .67 with the first, .33 with the first and .54 with the second, which is gone by then.
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [5, 0, 15, 10]], np.float32)
    assert suppress(boxes, 0.5).tolist() == [0, 2]
    assert suppress(boxes, 0.7).tolist() == [0, 1, 2]
    assert suppress(boxes, 0.3).tolist() == [0]
    assert suppress(np.zeros((2, 4), np.float32), 0.5).tolist() == [0, 1]  # without area: no overlap
    assert suppress(np.zeros((0, 4), np.float32), 0.5).tolist() == []
