"""Pictures of the worst and best images: choice, errors and colours."""

import base64

import cv2
import numpy as np

from ssdlite.evaluation.errors import ERROR_TYPES
from ssdlite.report.images import (
    ERROR_COLORS,
    MISSED_COLOR,
    TRUE_POSITIVE_COLOR,
    choose_pictures,
    draw_matches,
    legend,
)
from ssdlite.report.summary import ERROR_NAMES

from .cases import CAT, LEFT, SCENE, TRUE_POSITIVE, make_evaluated


def pixels_of(picture) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(picture.data.partition(",")[2]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def color_near(picture, x, y) -> np.ndarray:
    """Return the colour (3,) of the picture at (x, y) of the original image, which is enlarged four times."""
    return pixels_of(picture)[4 * y, 4 * x].astype(float)


def test_the_worst_come_first_with_their_errors(tmp_path):
    worst, best = choose_pictures(make_evaluated(tmp_path))
    assert [picture.name.split("/")[-1] for picture in best] == ["image3.jpg"]
    found = {picture.name.split("/")[-1]: [chip.text for chip in picture.chips] for picture in worst}
    assert found == {"image0.jpg": ["1 missed"], "image1.jpg": ["1 classification"], "image2.jpg": ["1 background"]}
    assert all(picture.name.startswith(f"{tmp_path.name}/") for picture in worst)
    summaries = {picture.name[-10:]: picture.summary.replace("\u00a0", " ") for picture in worst + best}
    assert summaries["image0.jpg"] == "1 of 2 objects found" and summaries["image2.jpg"] == "no objects"
    assert summaries["image3.jpg"] == "1 of 1 object found"


def test_boxes_have_the_colour_of_what_they_are(tmp_path):
    evaluated = make_evaluated(tmp_path)
    images = evaluated.analysis.images
    for number, (x, color) in enumerate(
        [
            (10, TRUE_POSITIVE_COLOR),
            (10, ERROR_COLORS["wrong class"]),
            (60, ERROR_COLORS["background"]),
            (10, TRUE_POSITIVE_COLOR),
        ]
    ):
        picture = draw_matches(evaluated, images[number])
        assert picture.size == (480, 400)
        assert np.abs(color_near(picture, x, 30) - color).max() < 50, number
    near_missed = pixels_of(draw_matches(evaluated, images[0]))[4 * 10 : 4 * 50, 4 * 60 - 2 : 4 * 60 + 2]
    assert np.abs(near_missed.astype(float) - MISSED_COLOR).max(axis=2).min() < 60  # somewhere along the dashes


def test_images_that_cannot_be_read_have_a_place(tmp_path):
    evaluated = make_evaluated(tmp_path)
    (tmp_path / "image0.jpg").write_bytes(b"no picture")
    (tmp_path / "image1.jpg").unlink()
    cv2.imwrite(str(tmp_path / "image2.jpg"), np.zeros((7, 9, 3), np.uint8))
    worst, _ = choose_pictures(evaluated)
    problems = {picture.name[-10:]: picture.problem for picture in worst}
    assert "not a readable image" in problems["image0.jpg"] and "cannot be opened" in problems["image1.jpg"]
    assert "9x7" in problems["image2.jpg"]
    assert all(picture.data == "" and picture.chips for picture in worst)


def test_crowded_images_are_not_covered_by_names(tmp_path):
    many = [((5 * k, 5, 5 * k + 4, 20), CAT) for k in range(20)]
    evaluated = make_evaluated(tmp_path, [(many, [(LEFT, 0.9, CAT)]), (many, [(box, 0.9, CAT) for box, _ in many])])
    worst, best = choose_pictures(evaluated)
    assert [chip.text for chip in worst[0].chips] == ["20 missed", "1 background"]
    assert best and len(best[0].data) < 200_000


def test_ten_and_four_at_most(tmp_path):
    scene = [SCENE[0]] * 12 + [SCENE[3]] * 6
    worst, best = choose_pictures(make_evaluated(tmp_path, scene))
    assert (len(worst), len(best)) == (10, 4)
    assert choose_pictures(make_evaluated(tmp_path, [([], [])])) == ([], [])


def test_the_legend_explains_every_kind():
    assert [row[0] for row in legend()] == ["true positive", *(ERROR_NAMES[kind] for kind in ERROR_TYPES)]
    assert TRUE_POSITIVE != LEFT
