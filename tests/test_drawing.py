from pathlib import Path

import cv2
import numpy as np
import pytest

from ssdlite.drawing import class_color, draw_comparison, draw_detections, draw_truth, make_grid, write_image
from ssdlite.errors import DataError
from ssdlite.structures import Detections, Record

NAMES = ("cat", "dog", "a class with a rather long name")


def grey(height: int = 200, width: int = 300) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def make_record(boxes: list[list[float]], labels: list[int], ignore: list[bool]) -> Record:
    return Record(
        image_path=Path("1.jpg"),
        image_id=1,
        size=(200, 300),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        ignore=np.array(ignore, bool),
        crowd=np.zeros(len(labels), bool),
        areas=np.ones(len(labels), np.float32),
    )


def test_draws_a_frame_in_the_class_colour_and_leaves_the_image_alone():
    image = grey()
    drawn = draw_detections(image, np.array([[50, 60, 150, 160]]), np.array([2]), NAMES)
    assert (image == 128).all()
    for y, x in ((110, 50), (110, 150), (160, 100)):  # left, right and lower edge
        assert tuple(drawn[y, x]) == class_color(2)
    assert (drawn[100:140, 80:130] == 128).all()  # nothing is painted over the object
    assert not (drawn[40:59, 50:80] == 128).all()  # the name stands above


def test_one_colour_for_all():
    red = (255, 0, 0)
    drawn = draw_detections(grey(), np.array([[50, 60, 150, 160]]), np.array([1]), NAMES, color=red)
    assert tuple(drawn[110, 50]) == red


def test_nothing_to_draw():
    empty = Detections.empty()
    record = make_record([], [], [])
    assert (draw_detections(grey(), empty.boxes, empty.labels, NAMES, empty.scores) == 128).all()
    assert (draw_comparison(grey(), record, empty, NAMES) == 128).all()


@pytest.mark.parametrize("size", [(20, 20), (200, 300), (1500, 2000)])
def test_boxes_beyond_the_image_are_drawn_inside_it(size):
    boxes = np.array([[-50, -50, 5000, 5000], [-9, -9, -3, -3], [4000, 10, 4100, 12], [3, 3, 3, 3]], np.float32)
    labels, scores = np.array([1, 2, 3, 3]), np.array([0.9, 0.1, 0.5, 1.0], np.float32)
    drawn = draw_detections(grey(*size), boxes, labels, NAMES, scores)
    assert drawn.shape == (*size, 3) and not (drawn == 128).all()
    if min(size) > 20:  # smaller than that, the names cover all
        assert tuple(drawn[size[0] // 2, 0]) == class_color(1)  # the left edge, brought inside


def test_best_score_lies_on_top():
    box = np.array([[50, 60, 150, 160]] * 2)
    for scores in ([0.9, 0.2], [0.2, 0.9]):
        drawn = draw_detections(grey(), box, np.array([1, 2]), NAMES, np.array(scores))
        assert tuple(drawn[130, 50]) == class_color(1 + int(np.argmax(scores)))


def test_colours_are_distinct():
    colors = {class_color(label) for label in range(1, 91)}
    assert len(colors) == 90
    near = np.array([class_color(label) for label in range(1, 9)], float)
    gaps = np.linalg.norm(near[:, None] - near[None], axis=2)[~np.eye(8, dtype=bool)]
    assert gaps.min() > 60


def test_truth_is_dashed_white_and_grey_where_ignored():
    boxes = np.array([[20, 20, 120, 120], [150, 20, 250, 120]])
    drawn = draw_truth(grey(), boxes, np.array([False, True]))
    first, second = set(drawn[20:120, 20, 0].tolist()), set(drawn[20:120, 150, 0].tolist())
    assert {0, 255} <= first and 255 not in second and {0, 160} <= second


def test_only_missed_objects_are_named():
    record = make_record([[20, 60, 120, 160], [160, 60, 260, 160]], [1, 2], [False, False])
    found = Detections(record.boxes, np.ones(2, np.float32), record.labels)
    interior = np.s_[130:158, 165:250]  # where the second object's name would stand
    assert (draw_comparison(grey(), record, found, NAMES)[interior] == 128).all()
    wrong_class = found._replace(labels=np.array([1, 1]))
    assert (draw_comparison(grey(), record, wrong_class, NAMES)[interior] != 128).any()
    ignored = make_record([[20, 60, 120, 160], [160, 60, 260, 160]], [1, 2], [False, True])
    assert (draw_comparison(grey(), ignored, wrong_class, NAMES)[interior] == 128).all()


def test_grid_keeps_aspect_ratios():
    images = [
        np.zeros((100, 200, 3), np.uint8),
        np.zeros((30, 10, 3), np.uint8),
        np.zeros((60, 60, 3), np.uint8),
    ]
    grid = make_grid(images, columns=2, cell_size=(60, 80), padding=10)
    assert grid.shape == (10 + 2 * 70, 10 + 2 * 90, 3)
    # cell of 60 x 80: 100 x 200 becomes 40 x 80, 30 x 10 becomes 60 x 20, 60 x 60 stays
    assert [(grid[y : y + 60, x : x + 80, 0] == 0).sum() for y, x in ((10, 10), (10, 100), (80, 10))] == [
        40 * 80,
        60 * 20,
        60 * 60,
    ]
    assert (grid[80:, 100:] == 255).all()


def test_grid_of_nothing_and_of_less_than_a_row():
    assert make_grid([], 3, (10, 10)).shape == (26, 26, 3)
    assert make_grid([grey()], 3, (10, 10), padding=1).shape == (12, 12, 3)


def test_written_image_reads_back_as_rgb(tmp_path):
    image = grey()
    image[..., 0] = 250
    path = tmp_path / "new" / "folder" / "picture.png"
    write_image(path, image)
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], image)
    write_image(path.with_suffix(".jpg"), image)
    assert abs(cv2.imread(str(path.with_suffix(".jpg")))[..., ::-1].astype(int) - image).max() < 8
    assert sorted(p.name for p in path.parent.iterdir()) == ["picture.jpg", "picture.png"]


@pytest.mark.parametrize("name", ["picture", "picture.docx"])
def test_unknown_suffix_is_a_sentence(tmp_path, name):
    with pytest.raises(DataError, match=r"use \.jpg or \.png"):
        write_image(tmp_path / name, grey())
    assert not list(tmp_path.iterdir())
