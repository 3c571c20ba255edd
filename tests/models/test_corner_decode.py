"""From corners to boxes, on maps made by hand and on those that the targets describe."""

import numpy as np
import pytest
import torch

from ssdlite.losses.corner import draw_corners
from ssdlite.models.decode import Decoder, decode_corners, decode_output
from ssdlite.structures import CornerOutput

NOTHING = -12.0


def blank(classes=2, cells=(8, 10), size=(64, 80), batch=1) -> CornerOutput:
    """No corner anywhere: a slope with one peak of next to no score, and embeddings that fit nothing."""
    slope = torch.arange(cells[0] * cells[1]).view(cells) * 1e-3 + NOTHING
    embeddings = torch.tensor([100.0, -100])[:, None, None].expand(batch, 2, *cells).clone()
    return CornerOutput(
        slope.expand(batch, 2, classes, *cells).clone(), embeddings, torch.zeros(batch, 2, 2, *cells), size
    )


def put(output, kind, label, row, column, score, embedding, offset=(0.0, 0.0)):
    output.heatmaps[0, kind, label - 1, row, column] = torch.tensor(score).logit()
    output.embeddings[0, kind, row, column] = embedding
    output.offsets[0, kind, :, row, column] = torch.tensor(offset)


def found(output, **options):
    """(score, label, box) of each pair, best first."""
    boxes, scores = decode_corners(output, **options)
    rows = [(scores[0, i], box) for i, box in enumerate(boxes[0].tolist()) if scores[0, i].any()]
    return [(score.max().item(), int(score.argmax()) + 1, box) for score, box in rows]


def test_one_pair_by_hand():
    """Cells of 8 pixels: (1 + .25)·8 = 10, (2 + .5)·8 = 20, (7 + .125)·8 = 57, (6 + .75)·8 = 54.

    √(.8 · .6) · (1 − .4²) = .582.
    """
    output = blank()
    put(output, 0, 2, 2, 1, 0.8, 1.0, (0.25, 0.5))
    put(output, 1, 2, 6, 7, 0.6, 1.4, (0.125, 0.75))
    ((score, label, box),) = found(output)
    assert (score, label) == (pytest.approx(0.48**0.5 * 0.84), 2)
    assert box == pytest.approx([10, 20, 57, 54])


@pytest.mark.parametrize(
    ("change", "survives"),
    [
        ({}, True),
        ({"label": 1}, False),  # of two classes
        ({"embedding": 1.99}, True),
        ({"embedding": 2.0}, False),
        ({"embedding": 3.0}, False),
        ({"row": 2, "offset": (0.0, 0.6)}, True),  # a tenth of a cell high
        ({"row": 2}, False),  # no height
        ({"column": 1}, False),  # no width
        ({"row": 1}, False),  # upside down
        ({"column": 0}, False),
    ],
)
def test_what_is_no_pair(change, survives):
    output = blank()
    put(output, 0, 2, 2, 1, 0.8, 1.0, (0.5, 0.5))
    second = {"kind": 1, "label": 2, "row": 6, "column": 7, "score": 0.6, "embedding": 1.0, "offset": (0.5, 0.5)}
    put(output, **{**second, **change})
    assert bool(found(output)) == survives


def test_only_peaks_are_corners():
    """A weaker neighbour is none, even where it would fit better; further away is another corner."""
    output = blank()
    put(output, 0, 1, 2, 2, 0.9, 0.0)
    put(output, 0, 1, 3, 3, 0.8, 0.0)
    put(output, 0, 1, 2, 5, 0.5, 0.0)
    put(output, 1, 1, 6, 7, 0.7, 0.0)
    assert [score for score, _, _ in found(output)] == pytest.approx([0.63**0.5, 0.35**0.5])


def test_the_neighbourhood_ends_with_the_class():
    output = blank()
    for label in (1, 2):
        put(output, 0, label, 2, 2 + label, 0.9 - 0.1 * label, 0.0)
        put(output, 1, label, 6, 7, 0.8, 0.0)
    assert [label for _, label, _ in found(output)] == [1, 2]


def test_the_best_corners_and_pairs_are_kept():
    """Three of each kind fit each other, but for where they lie; the best two corners make four pairs."""
    output = blank()
    for rank, score in enumerate((0.9, 0.7, 0.5)):
        put(output, 0, 1, 0, 2 * rank, score, 0.0)
        put(output, 1, 1, 7, 5 + 2 * rank, score, 0.0)
    assert len(found(output)) == 9
    scores = [score for score, _, _ in found(output, num_corners=2)]
    assert scores == pytest.approx([0.9, 0.63**0.5, 0.63**0.5, 0.7])
    assert decode_corners(output, num_corners=2)[0].shape == (1, 4, 4)
    boxes, scores = decode_corners(output, num_pairs=3)
    assert boxes.shape == (1, 3, 4) and scores.shape == (1, 3, 2)
    assert scores[0, :, 0].tolist() == pytest.approx([0.9, 0.63**0.5, 0.63**0.5])


def test_cells_that_are_no_peak_never_pair():
    """With one strong corner and embeddings that all fit, the rest of the map would score .45."""
    output = blank()
    output.embeddings.zero_()
    put(output, 0, 1, 2, 2, 0.9, 0.0)
    pairs = found(output)
    assert len(pairs) < 4  # with the one peak of the slope in the other map
    assert all(box[:2] in ([16, 16], [72, 56]) for _, _, box in pairs)


def test_offsets_that_overflow_end_at_the_frame():
    output = blank()
    put(output, 0, 1, 2, 2, 0.9, 0.0, (-1e30, -1e30))
    put(output, 1, 1, 6, 7, 0.9, 0.0, (1e30, 1e30))
    ((_, _, box),) = found(output)
    assert box == [-80, -64, 160, 128]


BOXES = [[11.0, 13, 30, 40], [20, 10, 66, 58], [40, 4, 62, 21], [0, 0, 80, 64], [50, 30, 71, 50]]
LABELS = [1, 2, 2, 1, 1]


def perfect_output(boxes, labels, size=(64, 80), cells=(16, 20)) -> CornerOutput:
    """What a network that has learnt everything gives for these targets, of one image."""
    targets = draw_corners(
        torch.tensor(boxes).view(1, -1, 4),
        torch.tensor([labels], dtype=torch.int64),
        torch.zeros(1, len(labels), dtype=torch.bool),
        input_size=size,
        map_size=cells,
        num_classes=2,
        min_overlap=0.3,
    )
    output = blank(2, cells, size)
    heatmaps = torch.maximum(output.heatmaps, targets.heatmaps.clamp(max=1 - 1e-4).logit())
    for kind in (0, 1):
        for number in range(len(labels)):
            row, column = divmod(int(targets.cells[0, kind, number]), cells[1])
            output.embeddings[0, kind, row, column] = number
            output.offsets[0, kind, :, row, column] = targets.offsets[0, kind, number]
    return output._replace(heatmaps=heatmaps)


@pytest.mark.parametrize("cells", [(16, 20), (13, 15), (8, 10)])
def test_a_perfect_output_decodes_to_the_objects(cells):
    decoder = Decoder((64, 80), iou_threshold=0.9)
    (detections,) = decoder(perfect_output(BOXES, LABELS, cells=cells), [(128, 160)])
    assert len(detections.scores) == 5 and detections.scores.min() > 0.99
    pairs = sorted(zip(detections.labels.tolist(), detections.boxes.round(3).tolist(), strict=True))
    expected = sorted((label, [2 * side for side in box]) for label, box in zip(LABELS, BOXES, strict=True))
    assert [label for label, _ in pairs] == [label for label, _ in expected]
    np.testing.assert_allclose([box for _, box in pairs], [box for _, box in expected], atol=1e-3)


def test_nothing_is_found_where_nothing_is():
    (detections,) = Decoder((64, 80))(perfect_output([], []), [(64, 80)])
    assert len(detections.scores) == 0


def test_images_of_a_batch_are_decoded_as_if_alone_and_from_any_precision():
    torch.manual_seed(0)
    shapes = ((3, 2, 4, 9, 7), (3, 2, 9, 7), (3, 2, 2, 9, 7))
    output = CornerOutput(*(torch.randn(shape) for shape in shapes), (72, 56))
    boxes, scores = decode_output(output, (72, 56))
    assert boxes.shape == (3, 400, 4) and scores.shape == (3, 400, 4)
    for image in range(3):
        alone = decode_corners(CornerOutput(*(part[image : image + 1] for part in output[:3]), (72, 56)))
        assert alone[0].equal(boxes[image : image + 1]) and alone[1].equal(scores[image : image + 1])
    assert all(
        part.dtype == torch.float32 for part in decode_corners(output._replace(heatmaps=output.heatmaps.half()))
    )


def test_small_maps_have_fewer_pairs():
    output = CornerOutput(torch.randn(1, 2, 1, 2, 3), torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 2, 3), (16, 24))
    boxes, scores = decode_corners(output)
    assert boxes.shape == (1, 36, 4) and scores.shape == (1, 36, 1)
