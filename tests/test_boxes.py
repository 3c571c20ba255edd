"""Boxes: formats, overlap and encoding against numbers worked out by hand and against torchvision."""

import math

import pytest
import torch
from torchvision.ops import box_convert, box_iou

from ssdlite import boxes as box_ops


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 200
    return torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=generator) * 100], dim=-1)


def test_formats_agree_with_torchvision_and_invert_each_other():
    boxes = random_boxes(50)
    centers = box_ops.xyxy_to_cxcywh(boxes)
    torch.testing.assert_close(centers, box_convert(boxes, "xyxy", "cxcywh"))
    torch.testing.assert_close(box_ops.cxcywh_to_xyxy(centers), boxes)


def test_iou_by_hand():
    # 2x2 against itself shifted by (1, 1): 1 / (4 + 4 - 1)
    a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]])
    torch.testing.assert_close(box_ops.iou(a, b), torch.tensor([[1 / 7, 1.0, 0.0]]))


def test_iou_agrees_with_torchvision_and_broadcasts():
    a, b = random_boxes(20), random_boxes(30, seed=1)
    torch.testing.assert_close(box_ops.iou(a, b), box_iou(a, b))
    torch.testing.assert_close(box_ops.iou(a.view(4, 5, 4), b)[2], box_iou(a[10:15], b))


@pytest.mark.parametrize("side", [1e-3, 0.01, 3 / 300, 4.0])
def test_c14_a_small_box_overlaps_itself_fully(side):
    box = torch.tensor([[0.5, 0.5, 0.5 + side, 0.5 + side]])
    assert box_ops.iou(box, box).item() == 1.0


def test_boxes_without_area_overlap_nothing():
    empty = torch.tensor([[1.0, 1, 1, 1], [3, 3, 2, 2]])
    assert box_ops.iou(empty, torch.tensor([[0.0, 0, 4, 4], [1, 1, 1, 1]])).eq(0).all()
    assert box_ops.iou(torch.zeros(0, 4), empty).shape == (0, 2)


def test_encode_by_hand():
    # prior 10x20 at (50, 50); box 20x10 at (55, 40): (5/10/.1, -10/20/.1, ln 2/.2, -ln 2/.2)
    prior = torch.tensor([[50.0, 50, 10, 20]])
    deltas = box_ops.encode(torch.tensor([[45.0, 35, 65, 45]]), prior)
    expected = torch.tensor([[5.0, -5.0, math.log(2) / 0.2, -math.log(2) / 0.2]])
    torch.testing.assert_close(deltas, expected)


def test_decode_inverts_encode():
    boxes, priors = random_boxes(100), box_ops.xyxy_to_cxcywh(random_boxes(100, seed=1))
    torch.testing.assert_close(box_ops.decode(box_ops.encode(boxes, priors), priors), boxes, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("box", [[10.0, 10, 10, 20], [20.0, 20, 10, 10]])
def test_c10_degenerate_boxes_encode_to_finite_deltas(box):
    deltas = box_ops.encode(torch.tensor([box]), torch.tensor([[15.0, 15, 10, 10]]))
    assert deltas.isfinite().all()


def test_clip_by_hand():
    boxes = torch.tensor([[-5.0, 3, 120, 60]])
    assert box_ops.clip(boxes, (50, 100)).tolist() == [[0, 3, 100, 50]]
