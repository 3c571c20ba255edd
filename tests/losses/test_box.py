"""Box losses against numbers by hand, torch, torchvision and plain NumPy; boxes without area; wrong copies."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision import ops

from ssdlite.losses.box import IOU_LOSSES, ciou, diou, giou, smooth_l1

REFERENCES = {
    "giou": ops.generalized_box_iou_loss,
    "diou": ops.distance_box_iou_loss,
    "ciou": ops.complete_box_iou_loss,
}
NAMES = sorted(IOU_LOSSES)


def random_boxes(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 60
    sizes = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 50 + 1
    return torch.cat([corners, corners + sizes], dim=-1)


# --- smooth L1 ---


def test_smooth_l1_by_hand():
    predicted, target = torch.tensor([0.0, 0.5, 1, 3, -3]), torch.zeros(5)
    assert smooth_l1(predicted, target).tolist() == [0, 0.125, 0.5, 2.5, 2.5]
    assert smooth_l1(predicted, target, beta=2).tolist() == [0, 0.0625, 0.25, 2, 2]
    # σ = 2: ½·4·x² below ¼, |x| − ⅛ from there on.
    found = smooth_l1(torch.tensor([0.125, 0.25, 0.5]), torch.zeros(3), sigma=2)
    assert found.tolist() == [0.03125, 0.125, 0.375]


def test_smooth_l1_beta_is_one_over_sigma_squared():
    predicted, target = torch.randn(2, 2, 7, 4, generator=torch.Generator().manual_seed(0))
    assert smooth_l1(predicted, target, sigma=1).equal(smooth_l1(predicted, target))
    assert smooth_l1(predicted, target, sigma=3).equal(smooth_l1(predicted, target, beta=1 / 9))
    # keras-retinanet's σ = 3 is a β of .11, not of 3.
    assert not smooth_l1(predicted, target, sigma=3).allclose(smooth_l1(predicted, target, beta=3))


def test_smooth_l1_and_its_relatives():
    predicted, target = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    assert smooth_l1(predicted, target, beta=0).equal(F.l1_loss(predicted, target, reduction="none"))
    huber = F.huber_loss(predicted, target, delta=0.3, reduction="none")
    torch.testing.assert_close(huber, 0.3 * smooth_l1(predicted, target, beta=0.3))


def test_smooth_l1_weights_by_hand():
    predicted, target = torch.full((1, 2, 4), 3.0), torch.ones(1, 2, 4)
    inside, outside = torch.tensor([[0.5, 0.0]]), torch.tensor([[3.0, 5.0]])
    # w_in before f: f(.5 · 2) = .5, and .5 · f(2) = .75 would be wrong. w_out after: 3 · .5.
    found = smooth_l1(predicted, target, inside_weight=inside, outside_weight=outside)
    assert found.tolist() == [[[1.5] * 4, [0.0] * 4]]
    assert smooth_l1(predicted, target, outside_weight=outside).tolist() == [[[4.5] * 4, [7.5] * 4]]


def test_smooth_l1_wrong_copies():
    sigma, x = 3.0, np.array([[0.5, -0.5, 0.05, -2.0]])
    right = np.where(np.abs(x) < 1 / 9, 4.5 * x**2, np.abs(x) - 1 / 18)
    tensor = torch.from_numpy(x)
    found = smooth_l1(tensor, torch.zeros_like(tensor), sigma=sigma)
    np.testing.assert_allclose(found, right, rtol=1e-6)
    wrong_copies = {
        "threshold 1": np.where(np.abs(x) < 1, 4.5 * x**2, np.abs(x) - 1 / 18),
        "σ where σ² is meant": np.where(np.abs(x) < 1 / sigma, 0.5 * sigma * x**2, np.abs(x) - 0.5 / sigma),
        "x where |x| is meant": np.where(x < 1 / 9, 4.5 * x**2, np.abs(x) - 1 / 18),
    }
    for name, wrong in wrong_copies.items():
        assert np.abs(found.numpy() - wrong).max() > 0.05, name
    # A mean over the coordinates is a quarter of the paper's sum.
    assert found.sum().item() == pytest.approx(4 * F.smooth_l1_loss(tensor, tensor * 0, beta=1 / 9).item())


@pytest.mark.parametrize("options", [{"beta": 1.0, "sigma": 1.0}, {"beta": -0.1}, {"sigma": 0.0}])
def test_smooth_l1_refuses_what_has_no_meaning(options):
    with pytest.raises(ValueError, match=r"beta|sigma"):
        smooth_l1(torch.zeros(1), torch.zeros(1), **options)


@pytest.mark.parametrize("options", [{}, {"beta": 0.3}, {"sigma": 3.0}, {"beta": 0.0}])
def test_smooth_l1_gradients_match_numerical_ones(options):
    torch.manual_seed(0)
    predicted, target = torch.randn(3, 4).double().requires_grad_(), torch.randn(3, 4).double()
    weights = {"inside_weight": torch.rand(3).double(), "outside_weight": torch.rand(3, 1).double()}
    assert torch.autograd.gradcheck(lambda x: smooth_l1(x, target, **options, **weights), predicted)


# --- overlaps ---


def slow_overlap_loss(name: str, box: np.ndarray, target: np.ndarray) -> float:
    """The papers' formulas for one pair of boxes with area, in float64."""
    width, height = min(box[2], target[2]) - max(box[0], target[0]), min(box[3], target[3]) - max(box[1], target[1])
    common = width * height if width > 0 and height > 0 else 0.0
    (w, h), (w_t, h_t) = box[2:] - box[:2], target[2:] - target[:2]
    union = w * h + w_t * h_t - common
    iou = common / union
    around_w, around_h = (
        max(box[2], target[2]) - min(box[0], target[0]),
        max(box[3], target[3]) - min(box[1], target[1]),
    )
    if name == "giou":
        return 1 - (iou - (around_w * around_h - union) / (around_w * around_h))
    distance = ((box[:2] + box[2:] - target[:2] - target[2:]) ** 2).sum() / 4
    loss = 1 - (iou - distance / (around_w**2 + around_h**2))
    if name == "ciou":
        v = 4 / math.pi**2 * (math.atan(w_t / h_t) - math.atan(w / h)) ** 2
        loss += v / (1 - iou + v) * v
    return loss


@pytest.mark.parametrize("name", NAMES)
def test_overlap_losses_equal_the_formula_and_torchvision(name):
    boxes, targets = random_boxes(2, 300), random_boxes(2, 300, seed=1)
    found = IOU_LOSSES[name](boxes, targets)
    expected = [
        [slow_overlap_loss(name, *pair) for pair in zip(*rows, strict=True)]
        for rows in zip(boxes.numpy(), targets.numpy(), strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    torch.testing.assert_close(found, REFERENCES[name](boxes, targets), rtol=1e-6, atol=1e-6)


def test_overlap_losses_by_hand():
    box, target = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2])  # IoU 2/6, around 6, U 6
    assert giou(box, target).item() == pytest.approx(1 - 1 / 3)
    assert diou(box, target).item() == pytest.approx(1 - 1 / 3 + 1 / 13)  # ρ² = 1, c² = 9 + 4
    assert ciou(box, target).item() == pytest.approx(1 - 1 / 3 + 1 / 13)  # both are squares
    tall = torch.tensor([0.0, 0, 1, 2])
    v = 4 / math.pi**2 * (math.pi / 4 - math.atan(0.5)) ** 2  # IoU ½, ρ² = ¼, c² = 8
    assert ciou(tall, box).item() == pytest.approx(0.5 + 1 / 32 + v * v / (0.5 + v))


@pytest.mark.parametrize("name", NAMES)
def test_a_box_on_its_target_has_no_loss(name):
    boxes = random_boxes(50).float()
    assert IOU_LOSSES[name](boxes, boxes).abs().max() < 1e-6


def test_far_apart_boxes():
    box, target = torch.tensor([0.0, 0, 1, 1]), torch.tensor([9999.0, 0, 10000, 1])
    assert giou(box, target).item() == pytest.approx(2 - 2 / 10000)
    assert diou(box, target).item() == pytest.approx(1 + 9999**2 / (10000**2 + 1))


def test_wrong_copies_of_the_overlap_losses():
    boxes, targets = random_boxes(200).requires_grad_(), random_boxes(200, seed=1)
    plain = 1 - ops.box_iou(boxes, targets).diagonal()
    apart = (plain == 1).detach()
    assert apart.any() and (giou(boxes, targets)[apart] > 1).all()  # a loss of 1 − IoU teaches nothing there
    # α with a gradient: the same value, another slope.
    angles = [torch.atan((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1])) for b in (boxes, targets)]
    v = 4 / math.pi**2 * (angles[1] - angles[0]) ** 2
    wrong = diou(boxes, targets) + v / (plain + v) * v
    found = ciou(boxes, targets)
    torch.testing.assert_close(wrong, found)
    slopes = [torch.autograd.grad(loss.sum(), boxes, retain_graph=True)[0] for loss in (wrong, found)]
    assert (slopes[0] - slopes[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["giou", "diou"])
def test_overlap_gradients_match_numerical_ones(name):
    boxes, targets = random_boxes(12).requires_grad_(), random_boxes(12, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(IOU_LOSSES[name], (boxes, targets))


def test_ciou_gradients_match_numerical_ones_with_alpha_held():
    boxes, targets = random_boxes(12).requires_grad_(), random_boxes(12, seed=1)
    with torch.no_grad():
        iou = 1 - ops.box_iou(boxes, targets).diagonal()
        angles = torch.atan((targets[:, 2] - targets[:, 0]) / (targets[:, 3] - targets[:, 1]))

    def aspect(x):
        return 4 / math.pi**2 * (angles - torch.atan((x[:, 2] - x[:, 0]) / (x[:, 3] - x[:, 1]))) ** 2

    alpha = (aspect(boxes) / (iou + aspect(boxes))).detach()

    def held(x):
        return diou(x, targets) + alpha * aspect(x)

    assert torch.autograd.gradcheck(held, boxes)
    expected, found = (torch.autograd.grad(f, boxes)[0] for f in (held(boxes).sum(), ciou(boxes, targets).sum()))
    torch.testing.assert_close(found, expected)


POINT, LINE, OTHER_LINE = [5.0, 5, 5, 5], [5.0, 0, 5, 10], [0.0, 5, 10, 5]
SQUARE, INSIDE, AWAY, SLIVER = [0.0, 0, 10, 10], [4.0, 4, 6, 6], [300.0, 300, 310, 310], [5.0, 5, 5 + 1e-5, 15]
FAR = [1e6, 1e6, 1e6 + 10, 1e6 + 10]
EDGE_CASES = [POINT, LINE, OTHER_LINE, SQUARE, INSIDE, AWAY, SLIVER, FAR]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pair", list(itertools.product(range(len(EDGE_CASES)), repeat=2)))
def test_every_pair_has_a_finite_loss_and_gradient(name, pair):
    """Where torchvision's CIoU is NaN (a point, two flat boxes) and its GIoU has slopes of 5e7 (one line twice)."""
    box = torch.tensor([EDGE_CASES[pair[0]]]).requires_grad_()
    loss = IOU_LOSSES[name](box, torch.tensor([EDGE_CASES[pair[1]]]))
    loss.sum().backward()
    assert -1e-6 <= loss.item() <= 3
    # Overlaps and aspects know sizes relative to each other: a slope is 1 over the side, if that is not 0.
    flat = pair[0] in (0, 1, 2, 6)
    assert box.grad.isfinite().all() and box.grad.abs().max() < (1e6 if flat else 2)


def test_boxes_without_area_by_hand():
    point, line, square = torch.tensor([POINT]), torch.tensor([LINE]), torch.tensor([SQUARE])
    assert giou(point, point).item() == diou(point, point).item() == ciou(point, point).item() == 1
    assert giou(point, square).item() == 1  # IoU 0, the box around is the square itself
    assert giou(point, torch.tensor([[7.0, 8, 7, 8]])).item() == 2  # nothing but empty space around them
    v = 4 / math.pi**2 * (math.pi / 4) ** 2  # aspects 0 and 1
    assert ciou(line, square).item() == pytest.approx(1 + v / (1 + v) * v, rel=1e-5)


@pytest.mark.parametrize("name", [*NAMES, "smooth_l1"])
@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_no_boxes(name, shape):
    boxes = torch.zeros(*shape, 4, requires_grad=True)
    losses = {**IOU_LOSSES, "smooth_l1": smooth_l1}[name](boxes, torch.zeros(*shape, 4))
    losses.sum().backward()
    assert losses.shape == ((*shape, 4) if name == "smooth_l1" else shape) and boxes.grad is not None


@pytest.mark.parametrize("name", [*NAMES, "smooth_l1"])
def test_needs_no_values_on_the_host(name):
    """A tensor on `meta` has none, so whatever would wait for them on a GPU raises here."""
    boxes = torch.ones(2, 3, 4, device="meta", requires_grad=True)
    {**IOU_LOSSES, "smooth_l1": smooth_l1}[name](boxes, torch.ones(2, 3, 4, device="meta")).sum().backward()
    assert boxes.grad.shape == (2, 3, 4)
