from __future__ import annotations

import random
from itertools import pairwise

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from ssdlite.boxes import iou
from ssdlite.data.augmentation import (
    CORNERS,
    Colors,
    CropResize,
    halve,
    halvings,
    overlap_with_crops,
    place,
    random_crop,
    shrink,
    trim,
    zoom_out,
)
from ssdlite.data.images import resize
from ssdlite.data.transforms import MEAN_COLOR, augment, build_augmentation, draft

RECIPES = ("ssd", "light", "flip", "none")
SIZE = (30, 50)
NONE = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))


def two_squares() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A black image of 160x120 with a white object, and a grey one to be ignored."""
    image = np.zeros((120, 160, 3), np.uint8)
    image[20:60, 30:90], image[70:110, 100:150] = 255, 128
    boxes = np.array([[30, 20, 90, 60], [100, 70, 150, 110]], np.float32)
    return image, boxes, np.array([1, 2]), np.array([False, True])


@pytest.mark.parametrize("recipe", RECIPES)
def test_c33_c35_images_without_objects(recipe) -> None:
    pipeline = build_augmentation(recipe, SIZE)
    image = two_squares()[0]
    for seed in range(50):
        output, targets = augment(pipeline, image, *NONE, seed=seed)
        assert output.shape == (*SIZE, 3)
        assert output.dtype == np.uint8
        assert (targets.boxes.shape, targets.labels.shape, targets.ignore.shape) == ((0, 4), (0,), (0,))
        assert (targets.labels.dtype, targets.ignore.dtype) == (torch.int64, torch.bool)


def test_empty_and_full_images_in_turn() -> None:
    pipeline = build_augmentation("none", SIZE)
    for _ in range(2):
        assert len(augment(pipeline, two_squares()[0], *NONE)[1].labels) == 0
        assert augment(pipeline, *two_squares())[1].labels.tolist() == [1, 2]


def test_none_is_the_resize_of_prediction() -> None:
    image, boxes, labels, ignore = two_squares()
    output, targets = augment(build_augmentation("none", SIZE), image, boxes, labels, ignore)
    assert np.array_equal(output, resize(image, SIZE))
    assert torch.allclose(targets.boxes, torch.from_numpy(boxes) * torch.tensor([50 / 160, 30 / 120] * 2))
    assert targets.labels.tolist() == [1, 2]
    assert targets.ignore.tolist() == [False, True]


def test_resize_averages_when_both_sides_shrink_beyond_half() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    assert np.array_equal(resize(image, (30, 30)), cv2.resize(image, (30, 30), interpolation=cv2.INTER_AREA))
    assert np.array_equal(resize(image, (60, 30)), cv2.resize(image, (30, 60), interpolation=cv2.INTER_LINEAR))
    assert np.array_equal(resize(image, (90, 90)), image)


def legacy_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """TensorFlow 1's resize_bilinear: output pixel i is taken at i · scale, between its two neighbours."""

    def taps(length: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position = np.arange(count) * (length / count)
        first = np.floor(position).astype(int)
        return first, np.minimum(first + 1, length - 1), position - first

    (top, bottom, down), (left, right, along) = (taps(*pair) for pair in zip(image.shape, size, strict=False))
    down, along = down[:, None, None], along[None, :, None]
    rows = image[top] * (1 - down) + image[bottom] * down
    return rows[:, left] * (1 - along) + rows[:, right] * along


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((90, 120), (30, 50)),
        ((333, 500), (96, 96)),
        ((37, 41), (96, 128)),
        ((1, 7), (30, 50)),
        ((900, 40), (30, 50)),
    ],
)
def test_asymmetric_is_the_resize_of_tensorflow_1(shape, size) -> None:
    """On smooth pictures: before 5.0 OpenCV rounds positions to 1/32 pixel, which is seen on noise."""
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 2)
    found = resize(image, size, "asymmetric")
    assert found.shape == (*size, 3) and found.dtype == np.uint8
    assert np.abs(found - legacy_bilinear(image.astype(float), size)).max() <= 1


def test_asymmetric_by_hand() -> None:
    """Halved it takes every other pixel, doubled it puts means between them and repeats the last."""
    row = np.array([10, 20, 40, 80], np.uint8)[None, :, None].repeat(3, 2)
    assert resize(row, (1, 2), "asymmetric")[0, :, 0].tolist() == [10, 40]
    assert resize(row, (1, 8), "asymmetric")[0, :, 0].tolist() == [10, 15, 20, 30, 40, 60, 80, 80]


@pytest.mark.parametrize("alignment", ["half_pixel", "asymmetric"])
def test_an_image_of_the_right_size_stays_as_it_is(alignment) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    assert np.array_equal(resize(image, (30, 50), alignment), image)


@pytest.mark.parametrize("alignment", ["half_pixel", "asymmetric"])
def test_the_pipelines_resize_by_their_alignment(alignment) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    output = augment(build_augmentation("none", SIZE, alignment=alignment), image, *NONE)[0]
    assert np.array_equal(output, resize(image, SIZE, alignment))
    assert not np.array_equal(
        output, resize(image, SIZE, {"half_pixel": "asymmetric"}.get(alignment, "half_pixel"))
    )
    for recipe in ("ssd", "light"):
        pipeline = build_augmentation(recipe, SIZE, alignment=alignment)
        assert pipeline.transforms[0].alignment == alignment


def test_boxes_follow_the_pixels() -> None:
    """In 200 draws the white object is found by its pixels where the box says, to one pixel of the output."""
    image, boxes, labels, ignore = two_squares()
    size = (120, 160)
    crop = CropResize(size, (0, 0, 0), zoom_out_probability=0.5, with_crop=True)
    pipeline = A.Compose([crop, A.HorizontalFlip(p=0.5)])
    seen = 0
    for seed in range(200):
        output, targets = augment(pipeline, image, boxes, labels, ignore, seed=seed)
        for box, label in zip(targets.boxes.numpy(), targets.labels.tolist(), strict=True):
            mask = output[..., 0] > 190 if label == 1 else np.abs(output[..., 0] - 128.0) < 40
            rows, columns = np.flatnonzero(mask.mean(1) > 0), np.flatnonzero(mask.mean(0) > 0)
            if label == 1:
                found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                assert np.abs(box - found).max() <= 1.5, seed
                seen += 1
            else:
                x1, y1, x2, y2 = (box + np.array([2, 2, -2, -2])).astype(int)
                assert mask[y1:y2, x1:x2].all(), seed
    assert seen > 100


def test_mirror_is_exact() -> None:
    """x becomes W − x (C32)."""
    image, boxes, labels, ignore = two_squares()
    flip = A.Compose([A.HorizontalFlip(p=1)])
    mirrored = augment(flip, image, boxes, labels, ignore)[1].boxes
    assert torch.allclose(mirrored, torch.tensor([[70.0, 20, 130, 60], [10, 70, 60, 110]]), atol=1e-4)


@pytest.mark.parametrize("recipe", ["ssd", "light"])
def test_upside_down_is_exact_and_happens_half_of_the_time(recipe: str) -> None:
    """y becomes H − y: with and without, the same draws give boxes and pixels that are each other's mirror."""
    image, boxes, labels, ignore = two_squares()
    plain, flipping = (build_augmentation(recipe, SIZE, vertical_flip=flag) for flag in (False, True))
    turned = 0
    for seed in range(100):
        first, first_targets = augment(plain, image, boxes, labels, ignore, seed=seed)
        second, second_targets = augment(flipping, image, boxes, labels, ignore, seed=seed)
        assert torch.equal(first_targets.labels, second_targets.labels)
        x1, y1, x2, y2 = first_targets.boxes.unbind(1)
        mirrored = torch.stack([x1, SIZE[0] - y2, x2, SIZE[0] - y1], 1)
        if np.array_equal(first[::-1], second):
            turned += 1
            assert torch.allclose(second_targets.boxes, mirrored, atol=1e-4)
        else:
            assert np.array_equal(first, second)
            assert torch.allclose(second_targets.boxes, first_targets.boxes, atol=1e-4)
    assert 35 < turned < 65


def test_upside_down_is_no_part_of_the_recipe_none() -> None:
    image, boxes, labels, ignore = two_squares()
    plain, flipping = (build_augmentation("none", SIZE, vertical_flip=flag) for flag in (False, True))
    for seed in range(10):
        outputs = [augment(pipeline, image, boxes, labels, ignore, seed=seed) for pipeline in (plain, flipping)]
        assert np.array_equal(outputs[0][0], outputs[1][0])
        assert torch.equal(outputs[0][1].boxes, outputs[1][1].boxes)


@pytest.mark.parametrize("min_iou", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_c33_an_accepted_crop_overlaps_some_box_enough(min_iou: float) -> None:
    """Caffe's any-box rule; 300 random scenes. A crop that is not the whole canvas was accepted."""
    rng = np.random.default_rng(0)
    canvas = np.array([0.0, 0, 300, 200])
    accepted = 0
    for _ in range(300):
        corners = rng.uniform(0, 150, (3, 2))
        boxes = np.hstack([corners, corners + rng.uniform(5, 150, (3, 2))]).clip(max=[300, 200, 300, 200])
        crop = random_crop(canvas, boxes, min_iou, rng.random((1000, 4)))
        if np.array_equal(crop, canvas):
            continue
        accepted += 1
        overlaps = iou(torch.from_numpy(crop)[None], torch.from_numpy(boxes))
        assert overlaps.max() >= min_iou
        width, height = crop[2:] - crop[:2]
        assert 0.5 <= width / height <= 2
        assert 0.3 * 300 <= width <= 300
        assert 0.3 * 200 <= height <= 200
        assert (crop[:2] >= 0).all()
        assert (crop[2:] <= [300, 200]).all()
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert ((centers > crop[:2]) & (centers < crop[2:])).all(1).any()
    assert accepted > (200 if min_iou < 0.7 else 0)


def test_crop_without_boxes_takes_the_first_window() -> None:
    """Draws of 0 and ½: sides of 30 %, then 65 % of 100, in the middle of the free room."""
    draws = np.array([[0.0, 0.5, 0, 0], [0.5, 0.5, 0.5, 0.5]])  # the first has the aspect ratio 30/65
    canvas = np.array([0.0, 0, 100, 100])
    assert random_crop(canvas, np.zeros((0, 4)), 0.9, draws).tolist() == pytest.approx([17.5, 17.5, 82.5, 82.5])
    assert random_crop(canvas, np.zeros((0, 4)), 0.9, draws[:1]).tolist() == canvas.tolist()


def test_zoom_out_by_hand() -> None:
    """Twice a 160x120 image, with all of the free room at the left and half of it above."""
    crop = zoom_out((120, 160), 2, left=1, top=0.5)
    assert crop.tolist() == [-160, -60, 160, 180]
    source, target = place(crop, (120, 160), (100, 100))
    assert source.tolist() == [0, 0, 160, 120]
    assert target.tolist() == [50, 25, 100, 75]


def test_zoom_out_fills_with_the_mean_color() -> None:
    crop = CropResize((100, 100), (1, 2, 3), zoom_out_probability=1, with_crop=False)
    params = {"source": np.array([0, 0, 160, 120]), "target": np.array([50, 25, 100, 75]), "colors": Colors()}
    output = crop.apply(np.full((120, 160, 3), 9, np.uint8), **params)
    assert (output[25:75, 50:] == 9).all()
    assert (output[:, :50] == [1, 2, 3]).all()
    assert (output[75:] == [1, 2, 3]).all()


@pytest.mark.parametrize("crop", [[-90, -50, -10, -5], [500, 500, 600, 700], [159.6, 0, 300, 300]])
def test_a_window_beside_the_image_shows_its_nearest_pixel(crop: list[float]) -> None:
    source, target = place(np.array(crop), (120, 160), (30, 30))
    for corners, limits in ((source, (160, 120)), (target, (30, 30))):
        assert (corners[:2] >= 0).all()
        assert (corners[2:] > corners[:2]).all()
        assert (corners[2:] <= limits).all()


def test_overlap_by_hand() -> None:
    """[0, 10]² with [5, 15]²: 25 / (100 + 100 − 25), its centre on the corner and so outside."""
    overlap, inside = overlap_with_crops(np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 5, 15, 15], [1, 1, 3, 3]]))
    assert overlap.tolist()[0] == pytest.approx([25 / 175, 0.04])
    assert inside.tolist() == [[False, True]]


@pytest.mark.parametrize("recipe", RECIPES)
def test_useless_boxes_do_not_raise_and_small_ones_go(recipe) -> None:
    """Of no width, inverted, outside; and 3x3 pixels of 160x120, which are less than a pixel of 50x30."""
    boxes = np.array([[5, 5, 5, 9], [9, 9, 5, 5], [200, 5, 220, 9], [5, 5, 8, 8]], np.float32)
    rest = (np.ones(4, np.int64), np.zeros(4, bool))
    pipeline = build_augmentation(recipe, SIZE)
    for seed in range(20):
        boxes_out = augment(pipeline, two_squares()[0], boxes, *rest, seed=seed)[1].boxes
        assert len(boxes_out) <= (0 if recipe == "none" else 1)
        assert ((boxes_out[:, 2:] - boxes_out[:, :2]) >= 0.999).all()


def test_c34_colours_are_clipped_not_wrapped() -> None:
    """Of a light grey, brightness and contrast may only reach 255, and never turn round to near 0.

    The lowest is (250 · .5) − 32 = 93 in the order of SSD's code, (250 − 32) · .5 = 109 in ours.
    """
    pipeline = build_augmentation("ssd", SIZE, mean_color=(250, 250, 250))
    image = np.full((60, 60, 3), 250, np.uint8)
    outputs = [augment(pipeline, image, *NONE, seed=seed)[0] for seed in range(200)]
    assert min(output.min() for output in outputs) >= 93
    assert max(output.max() for output in outputs) == 255


def test_photometric_draws_are_independent() -> None:
    """With albumentations' own seeding whatever has p = .5 is applied together; here also with the mirror."""
    pipeline = build_augmentation("ssd", SIZE)
    crop, mirror = pipeline.transforms
    image, *objects = two_squares()
    flags = []
    for seed in range(400):
        augment(pipeline, image, *objects, seed=seed)
        colors = zip(crop.params["colors"][:4], Colors()[:4], strict=True)
        flags.append([bool(mirror.params), *(drawn != identity for drawn, identity in colors)])
    applied = np.array(flags)
    assert np.abs(applied.mean(0) - 0.5).max() < 0.1
    assert all(abs(np.corrcoef(applied[:, a], applied[:, b])[0, 1]) < 0.2 for a, b in pairwise(range(5)))


def test_what_zooming_out_leaves_keeps_its_colour() -> None:
    """A canvas with 0 after normalisation, as in SSD's code, which distorts the colours first."""
    pipeline = build_augmentation("ssd", SIZE)
    image, *objects = two_squares()
    zoomed_out = 0
    for seed in range(60):
        output, _ = augment(pipeline, image, *objects, seed=seed)
        left, top, right, bottom = pipeline.transforms[0].params["target"]
        outside = np.ones(SIZE, bool)
        outside[top:bottom, left:right] = False
        if pipeline.transforms[1].params:  # mirrored
            outside = outside[:, ::-1]
        assert (output[outside] == MEAN_COLOR).all()
        zoomed_out += outside.any()
    assert zoomed_out > 15


@pytest.mark.parametrize(
    ("size", "target", "count"),
    [
        ((300, 300), (300, 300), 0),
        ((600, 800), (300, 300), 0),
        ((601, 601), (300, 300), 1),
        ((640, 640), (150, 150), 2),
        ((1200, 700), (300, 300), 1),
        ((100, 10), (5, 10), 0),
    ],
)
def test_halvings_leave_less_than_twice_the_target(size, target, count) -> None:
    assert halvings(size, target) == count


def test_shrinking_a_window_is_close_to_averaging() -> None:
    """A smooth picture of 640 to 150: within two levels of the exact mean over 4.27x4.27 pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 8)
    exact = cv2.resize(image, (150, 150), interpolation=cv2.INTER_AREA)
    assert np.abs(shrink(image, (150, 150)).astype(int) - exact).max() <= 2
    assert np.array_equal(shrink(image, (320, 320)), cv2.resize(image, (320, 320), interpolation=cv2.INTER_AREA))
    assert np.array_equal(shrink(image, (400, 640)), resize(image, (400, 640)))
    assert np.array_equal(shrink(image, (90, 90), "asymmetric"), resize(image, (90, 90), "asymmetric"))


def test_halving_leaves_the_rest_to_interpolation() -> None:
    """640x640 to 150x150 is halved twice; to 90x640, and asymmetric, not at all."""
    image = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    assert halve(image, (150, 150)).shape == (160, 160, 3)
    assert halve(image, (90, 640)) is image
    assert halve(image, (150, 150), "asymmetric") is image


@pytest.mark.parametrize("recipe", ["ssd", "light", "flip"])
def test_a_draft_is_the_same_draw_without_the_pixels(recipe: str) -> None:
    """Its part is cut from the image, its row says where that goes, and which mirrors the boxes saw."""
    image, *objects = two_squares()
    whole = build_augmentation(recipe, SIZE, vertical_flip=True)
    cutting = build_augmentation(recipe, SIZE, vertical_flip=True, cut_only=True)
    seen = set()
    for seed in range(40):
        targets = augment(whole, image, *objects, seed=seed)[1]
        part, row, drafted = draft(cutting, image, *objects, seed=seed)
        assert all(torch.equal(a, b) for a, b in zip(targets, drafted, strict=True))
        assert row[:2].tolist() == [part.shape[1], part.shape[0]]
        mirrors = [bool(mirror.params) for mirror in whole.transforms[1:]]
        assert row[7:9].tolist() == mirrors
        seen.add(tuple(mirrors))
        if recipe != "flip":
            assert row[2:6].tolist() == whole.transforms[0].params["target"].tolist()
    assert len(seen) == 4
    assert CORNERS[..., 0].tolist() == [[0, 1], [2, 3]], "nothing was mirrored in place"


def test_a_window_is_trimmed_to_what_can_be_halved() -> None:
    """100x103 to 20x20 is halved twice, so 103 becomes 100; 99 rows to 50 are not halved."""
    assert trim(np.array([5, 7, 105, 110]), np.array([0, 0, 20, 20])).tolist() == [5, 7, 105, 107]
    assert trim(np.array([0, 0, 300, 99]), np.array([9, 9, 59, 59])).tolist() == [0, 0, 300, 99]


@pytest.mark.parametrize("recipe", RECIPES)
def test_boxes_of_a_smaller_copy_are_those_of_the_original(recipe: str) -> None:
    """A copy of half the size has the same fractions, so the same draws; windows move by rounding alone."""
    image, *objects = two_squares()
    half = cv2.resize(image, (80, 60), interpolation=cv2.INTER_AREA)
    pipeline = build_augmentation(recipe, SIZE)
    for seed in range(30):
        targets = augment(pipeline, image, *objects, seed=seed)[1]
        copied = augment(pipeline, half, *objects, seed=seed, annotated_size=(120, 160))[1]
        assert torch.equal(targets.labels, copied.labels)
        if recipe in ("flip", "none"):
            assert torch.equal(targets.boxes, copied.boxes)
        assert torch.allclose(targets.boxes, copied.boxes, atol=2.5)


def test_seed_decides_everything() -> None:
    pipeline = build_augmentation("ssd", SIZE)
    image, *objects = two_squares()
    first, first_targets = augment(pipeline, image, *objects, seed=5)
    random.seed(0)
    others = [augment(pipeline, image, *objects, seed=seed)[0] for seed in range(6, 12)]
    again, again_targets = augment(pipeline, image, *objects, seed=5)
    assert np.array_equal(first, again)
    assert torch.equal(first_targets.boxes, again_targets.boxes)
    assert not any(np.array_equal(first, other) for other in others)
    assert image[40, 50, 0] == 255, "the input image is left as it was"
