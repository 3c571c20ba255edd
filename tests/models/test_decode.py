"""Decoding: thresholds, suppression and scaling on outputs made by hand."""

import pytest
import torch
from torchvision.ops import nms

from ssdlite import boxes as box_ops
from ssdlite.models import decode
from ssdlite.models.decode import Decoder, decode_output, suppress_by_image, suppress_together
from ssdlite.structures import HeadOutput


def output_for(boxes, scores, num_classes=2) -> HeadOutput:
    """An output that decodes to `boxes` (P, 4) with probability scores[p] = (label, score)."""
    boxes = torch.tensor(boxes, dtype=torch.float32)
    priors = torch.tensor([[50.0, 50, 20, 20]]).expand(len(boxes), 4)
    probabilities = torch.zeros(len(boxes), num_classes + 1)
    for row, (label, score) in enumerate(scores):
        probabilities[row, label] = score
        probabilities[row, 0] = 1 - score
    logits = probabilities.clamp(min=1e-9).log()
    return HeadOutput(logits[None], box_ops.encode(boxes, priors)[None], priors)


def test_suppression_is_by_class_and_scales_to_the_original():
    boxes = [[10, 10, 30, 30], [11, 10, 31, 30], [10, 10, 30, 30], [60, 60, 90, 90]]
    output = output_for(boxes, [(1, 0.9), (1, 0.8), (2, 0.7), (1, 0.005)])
    (found,) = Decoder(input_size=(100, 100))(output, [(50, 200)])  # half as high, twice as wide
    assert found.labels.tolist() == [1, 2]
    torch.testing.assert_close(torch.tensor(found.scores), torch.tensor([0.9, 0.7]))
    torch.testing.assert_close(torch.tensor(found.boxes[0]), torch.tensor([20.0, 5, 60, 15]))


def test_nothing_above_the_threshold_is_an_empty_result():
    (found,) = Decoder(input_size=(100, 100))(output_for([[1, 1, 9, 9]], [(1, 0.001)]), [(100, 100)])
    assert found.boxes.shape == (0, 4) and found.scores.shape == (0,) and found.labels.shape == (0,)


def test_a_threshold_of_zero_is_a_threshold():
    """C42: the seed took 0 for 'not given'."""
    decoder = Decoder(input_size=(100, 100), score_threshold=0.0)
    (found,) = decoder(output_for([[1, 1, 9, 9]], [(1, 0.001)]), [(100, 100)])
    assert len(found.scores) == 2  # both classes of the one prior


def test_boxes_are_clipped_to_the_image():
    (found,) = Decoder(input_size=(100, 100))(output_for([[-20, 40, 130, 60]], [(1, 0.9)]), [(100, 100)])
    torch.testing.assert_close(torch.tensor(found.boxes[0]), torch.tensor([0.0, 40, 100, 60]))


def test_boxes_are_clipped_after_suppression():
    """30 of 80 pixels in common; of what is in the image, everything."""
    output = output_for([[-60, 10, 20, 30], [-10, 10, 20, 30]], [(1, 0.9), (1, 0.8)])
    (found,) = Decoder(input_size=(100, 100))(output, [(100, 100)])
    torch.testing.assert_close(torch.tensor(found.boxes), torch.tensor([[0.0, 10, 20, 30]] * 2))


def test_a_box_outside_the_image_neither_counts_nor_suppresses():
    output = output_for([[-60, 10, -0.5, 30], [-58, 10, 2, 30]], [(1, 0.9), (1, 0.8)])
    (found,) = Decoder(input_size=(100, 100))(output, [(100, 100)])
    torch.testing.assert_close(torch.tensor(found.boxes), torch.tensor([[0.0, 10, 2, 30]]))


def test_classes_do_not_meet_where_coordinates_are_negative():
    """torchvision moves the second class by the largest coordinate and 1: here on top of the first."""
    output = output_for([[80, 40, 120, 60], [-40, 40, 1, 60]], [(1, 0.9), (2, 0.8)])
    (found,) = Decoder(input_size=(100, 100))(output, [(100, 100)])
    assert found.labels.tolist() == [1, 2]


def test_sizes_that_overflow_end_at_the_frame():
    """One side of the image beyond it, where two such boxes still overlap."""
    priors = torch.tensor([[50.0, 20, 20, 20]]).expand(2, 4)
    deltas = torch.tensor([[[0, 0, 1e4, 0], [5, 0, 2e4, 0]]])
    output = HeadOutput(torch.tensor([[[0, 2.0], [0, 1]]]), deltas, priors)
    boxes, _ = decode_output(output, (50, 100))
    torch.testing.assert_close(boxes, torch.tensor([[[-100.0, 10, 200, 30]] * 2]))
    (found,) = Decoder(input_size=(50, 100))(output, [(50, 100)])
    torch.testing.assert_close(torch.tensor(found.boxes), torch.tensor([[0.0, 10, 100, 30]]))


def test_at_most_max_detections_best_first():
    boxes = [[10.0 * i, 10 * i, 10 * i + 8, 10 * i + 8] for i in range(9)]
    output = output_for(boxes, [(1, 0.1 + 0.1 * i) for i in range(9)])
    (found,) = Decoder(input_size=(100, 100), max_detections=4)(output, [(100, 100)])
    torch.testing.assert_close(torch.tensor(found.scores), torch.tensor([0.9, 0.8, 0.7, 0.6]))


def test_agrees_with_torchvision_nms_class_by_class():
    torch.manual_seed(0)
    priors = torch.cat([torch.rand(300, 2) * 100, 10 + torch.rand(300, 2) * 30], dim=1)
    output = HeadOutput(torch.randn(1, 300, 4) * 2, torch.randn(1, 300, 4), priors)
    boxes, scores = decode_output(output, (100, 100))
    (found,) = Decoder(input_size=(100, 100), max_detections=10_000)(output, [(100, 100)])
    for label in (1, 2, 3):
        column = scores[0, :, label - 1]
        candidates = (column > 0.01).nonzero().flatten()
        kept = candidates[nms(boxes[0, candidates], column[candidates], 0.5)]
        assert found.scores[found.labels == label].tolist() == column[kept].tolist()


def test_sigmoid_scores_stand_by_themselves():
    """Each column is a score of its own: both classes of a prior can be found, whatever background says."""
    priors = torch.tensor([[50.0, 50, 20, 20]])
    logits = torch.tensor([[[5.0, 0, torch.tensor(3.0).log()]]])
    output = HeadOutput(logits, torch.zeros(1, 1, 4), priors, "sigmoid")
    scores = decode_output(output, (100, 100))[1]
    torch.testing.assert_close(scores, torch.tensor([[[0.5, 0.75]]]))
    (found,) = Decoder(input_size=(100, 100))(output, [(100, 100)])
    assert found.labels.tolist() == [2, 1]
    torch.testing.assert_close(torch.tensor(found.scores), torch.tensor([0.75, 0.5]))


def random_output(batch: int, num_classes: int = 3) -> HeadOutput:
    """Detections of all classes in all images but the first."""
    torch.manual_seed(0)
    priors = torch.cat([torch.rand(300, 2) * 100, 10 + torch.rand(300, 2) * 30], dim=1)
    logits = torch.randn(batch, 300, num_classes + 1) * 2
    logits[0, :, 0] += 50
    return HeadOutput(logits, torch.randn(batch, 300, 4), priors)


def test_the_images_of_a_batch_are_decoded_as_each_by_itself():
    output = random_output(4)
    sizes = [(100, 100), (50, 70), (320, 200), (9, 1000)]
    decoder = Decoder(input_size=(100, 100), max_detections=40)
    for image, found in enumerate(decoder(output, sizes)):
        alone = output._replace(logits=output.logits[image : image + 1], deltas=output.deltas[image : image + 1])
        (expected,) = decoder(alone, [sizes[image]])
        assert len(found.scores) == (0 if image == 0 else 40)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("together", [1, 700, 10**6])
def test_suppression_together_is_that_of_each_label_of_each_image(together, monkeypatch):
    """In groups of one image, of some, of all; with negative coordinates."""
    monkeypatch.setattr(decode, "TOGETHER", together)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 5, (2000,), generator=generator).sort().values
    images[images == 2] = 3  # an image without boxes
    labels = torch.randint(0, 4, (2000,), generator=generator)
    start = torch.rand(2000, 2, generator=generator) * 150 - 50
    boxes = torch.cat([start, start + 20 + 60 * torch.rand(2000, 2, generator=generator)], dim=-1)
    scores = torch.rand(2000, generator=generator)
    expected = []
    for image in range(5):
        own = [(images == image) & (labels == label) for label in range(4)]
        kept = torch.cat([mask.nonzero().flatten()[nms(boxes[mask], scores[mask], 0.5)] for mask in own])
        expected.append(kept[scores[kept].argsort(descending=True)])
    assert 200 < len(torch.cat(expected)) < 1800  # of 2,000
    for suppress in (suppress_together, suppress_by_image):
        assert suppress(boxes, scores, images, labels, 0.5).equal(torch.cat(expected))


def test_places_of_many_labels_take_nothing_from_the_boxes():
    """Pairs of boxes with overlaps of .49 and .51, in the last of 32 images, with the last of 80 labels."""
    boxes = torch.tensor([[0.0, 0, 100, 1], [0, 0, 49, 1], [200, 0, 300, 1], [200, 0, 251, 1], [900, 0, 960, 1]])
    images, labels = torch.tensor([31, 31, 31, 31, 31]), torch.tensor([79, 79, 79, 79, 0])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    assert suppress_together(boxes, scores, images, labels, 0.5).tolist() == [0, 1, 2, 4]


def test_nothing_together_is_nothing():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert not len(suppress_together(torch.zeros(0, 4), torch.zeros(0), nothing, nothing, 0.5))
