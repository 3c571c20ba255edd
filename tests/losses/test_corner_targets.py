"""Radius and hills of corners against numbers worked by hand and a plain reading of the formulas."""

import math

import numpy as np
import pytest
import torch

from ssdlite.losses.corner import draw_corners, gaussian_radius

F64 = torch.float64


def draw(boxes, labels, ignore=None, *, size=(64, 96), cells=(16, 24), num_classes=2, **options):
    """Of one image."""
    return draw_corners(
        torch.tensor(boxes, dtype=torch.float32).view(1, -1, 4),
        torch.tensor([labels], dtype=torch.int64),
        torch.tensor([ignore or [False] * len(labels)], dtype=torch.bool),
        input_size=size,
        map_size=cells,
        num_classes=num_classes,
        **{"min_overlap": 0.3, **options},
    )


@pytest.mark.parametrize(("side", "right", "historical"), [(10, 0.82, 2.73), (40, 3.27, 10.93)])
def test_radius_of_squares_at_an_overlap_of_point_seven(side, right, historical):
    """By hand, for 10×10: √(40² − 16·30) = 33.47, (40 − 33.47)/8 = .817; and (−28 + 33.47)/2 = 2.73."""
    size = torch.tensor(float(side), dtype=F64)
    assert gaussian_radius(size, size, 0.7).item() == pytest.approx(right, abs=0.005)
    assert gaussian_radius(size, size, 0.7, historical=True).item() == pytest.approx(historical, abs=0.005)


def iou(box, other):
    sides = [min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1)]
    common = max(sides[0], 0) * max(sides[1], 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return common / (sum(areas) - common)


@pytest.mark.parametrize("min_overlap", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(("height", "width"), [(10, 10), (3, 40), (17, 5)])
def test_the_radius_is_where_the_worst_move_has_the_overlap(height, width, min_overlap):
    r = gaussian_radius(torch.tensor(height, dtype=F64), torch.tensor(width, dtype=F64), min_overlap).item()
    moved = [(r, r, width + r, height + r), (r, r, width - r, height - r), (-r, -r, width + r, height + r)]
    assert min(iou((0, 0, width, height), box) for box in moved) == pytest.approx(min_overlap)


def test_corners_and_offsets_are_those_of_the_boxes():
    """Cells of 4 pixels, 24 a row: (9, 6) -> cell 2, 1 and offset .25, .5; (70, 33) -> 17, 8 and .5, .25."""
    targets = draw([9, 6, 70, 33], [2])
    assert targets.cells.tolist() == [[[1 * 24 + 2], [8 * 24 + 17]]]
    assert targets.offsets.tolist() == [[[[0.25, 0.5]], [[0.5, 0.25]]]]
    assert targets.present.tolist() == [[True]]
    assert (targets.heatmaps == 1).nonzero().tolist() == [[0, 0, 1, 1, 2], [0, 1, 1, 8, 17]]


def test_corners_on_the_far_border_belong_to_the_last_cell():
    targets = draw([0, 0, 96, 64], [1])
    assert targets.cells.tolist() == [[[0], [16 * 24 - 1]]]
    assert targets.offsets.tolist() == [[[[0, 0]], [[1, 1]]]]


def test_maps_that_do_not_divide_the_input():
    """100 pixels on 25 cells are cells of 4; 90 on 23 are cells of 90/23."""
    targets = draw([50, 45, 100, 90], [1], size=(90, 100), cells=(23, 25))
    assert targets.cells.tolist() == [[[11 * 25 + 12], [22 * 25 + 24]]]
    torch.testing.assert_close(targets.offsets[0, 0, 0], torch.tensor([0.5, 0.5]))


def reference_hills(boxes, labels, cells, scale, num_classes, min_overlap):
    """Law & Deng's drawing, object by object and cell by cell."""
    heatmaps = np.zeros((2, num_classes, *cells))
    for box, label in zip(boxes, labels, strict=True):
        width, height = math.ceil((box[2] - box[0]) / scale), math.ceil((box[3] - box[1]) / scale)
        radius = int(gaussian_radius(torch.tensor(height, dtype=F64), torch.tensor(width, dtype=F64), min_overlap))
        for kind in (0, 1):
            column, row = int(box[2 * kind] / scale), int(box[2 * kind + 1] / scale)
            for y in range(max(0, row - radius), min(cells[0], row + radius + 1)):
                for x in range(max(0, column - radius), min(cells[1], column + radius + 1)):
                    distance = (x - column) ** 2 + (y - row) ** 2
                    value = math.exp(-distance / (2 * ((2 * radius + 1) / 6) ** 2))
                    heatmaps[kind, label - 1, y, x] = max(heatmaps[kind, label - 1, y, x], value)
    return heatmaps


def test_hills_of_many_objects():
    """Overlapping ones of one class, one at the border, a small one, and padding."""
    boxes = [[4, 4, 60, 50], [12, 8, 66, 58], [0, 20, 90, 63], [40, 30, 47, 39]]
    targets = draw([*boxes, [0, 0, 0, 0]], [1, 1, 2, 2, 0])
    expected = reference_hills(boxes, [1, 1, 2, 2], (16, 24), 4, 2, 0.3)
    np.testing.assert_allclose(targets.heatmaps[0].numpy(), expected, atol=1e-6)
    assert targets.heatmaps.dtype == torch.float32 and int((targets.heatmaps == 1).sum()) == 8
    assert (expected > 0).sum() > 50


def test_images_of_a_batch_do_not_meet():
    boxes = torch.tensor([[[4.0, 4, 40, 40], [0, 0, 0, 0]], [[20, 20, 60, 60], [8, 8, 30, 30]]])
    labels, ignore = torch.tensor([[1, 0], [2, 1]]), torch.zeros(2, 2, dtype=torch.bool)
    options = {"input_size": (64, 64), "map_size": (16, 16), "num_classes": 2, "min_overlap": 0.3}
    together = draw_corners(boxes, labels, ignore, **options)
    for image in (0, 1):
        rows = slice(image, image + 1)
        alone = draw_corners(boxes[rows], labels[rows], ignore[rows], **options)
        assert all(mine.equal(part[rows]) for mine, part in zip(alone, together, strict=True))


def test_ignored_objects_have_no_peak_and_excuse_their_cells():
    targets = draw([[8, 8, 40, 30], [50, 40, 80, 60]], [1, 2], [True, False])
    assert targets.present.tolist() == [[False, True]]
    assert not targets.heatmaps[0, :, 0].any()
    expected = torch.zeros(1, 16, 24, dtype=torch.bool)
    expected[0, 2:8, 2:11] = True  # rows 8/4 to 30/4, columns 8/4 to 40/4, whole cells
    assert targets.ignored.equal(expected)


@pytest.mark.parametrize("count", [0, 3])
def test_no_objects(count):
    targets = draw([[0, 0, 0, 0]] * count, [0] * count)
    assert not targets.heatmaps.any() and not targets.ignored.any() and not targets.present.any()
    assert targets.heatmaps.shape == (1, 2, 2, 16, 24)
