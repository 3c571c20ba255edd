"""The drawn data set: bytes, boxes worked out by hand, and what an interruption leaves behind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from ssdlite.data.synthetic import dataset, pictures
from ssdlite.data.synthetic.dataset import CATEGORY_IDS, make_synthetic
from ssdlite.data.synthetic.pictures import SHAPES, draw_scene, place, turned_outline
from ssdlite.errors import ConfigError, DataError

SIZE = (96, 128)
SQUARE = [np.array([[-19.5, -19.5], [19.5, -19.5], [19.5, 19.5], [-19.5, 19.5]])]
"""40 px wide as it is painted: OpenCV adds half a pixel on each side."""


def draw(folder: Path, num_train: int = 6, num_val: int = 3, seed: int = 0, workers: int = 1) -> Path:
    make_synthetic(folder, num_train=num_train, num_val=num_val, size=SIZE, seed=seed, workers=workers)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_another_seed_others(tmp_path: Path) -> None:
    first, again = digests(draw(tmp_path / "a")), digests(draw(tmp_path / "b"))
    other = digests(draw(tmp_path / "c", seed=1))
    assert first == again
    assert all(first[name] != other[name] for name in first if name.endswith(".jpg"))


def test_processes_draw_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "IMAGES_PER_TASK", 2)
    assert digests(draw(tmp_path / "one")) == digests(draw(tmp_path / "two", workers=2))


def test_a_set_grows_and_keeps_its_first_images(tmp_path: Path) -> None:
    small = digests(draw(tmp_path / "set"))
    grown = digests(draw(tmp_path / "set", num_train=9))
    assert {name: grown[name] for name in small if name.endswith(".jpg")} == {
        name: digest for name, digest in small.items() if name.endswith(".jpg")
    }
    assert grown == digests(draw(tmp_path / "fresh", num_train=9))


def test_pycocotools_reads_it_and_every_box_is_inside(tmp_path: Path) -> None:
    folder = draw(tmp_path / "set", num_train=40)
    coco = COCO(folder / "annotations" / "instances_train.json")
    assert {category["name"]: category["id"] for category in coco.dataset["categories"]} == CATEGORY_IDS
    assert len(coco.imgs) == len(list((folder / "train").glob("*.jpg"))) == 40
    for image in coco.imgs.values():
        pixels = cv2.imread(str(folder / "train" / image["file_name"]))
        assert pixels.shape == (*SIZE, 3) == (image["height"], image["width"], 3)
    for annotation in coco.anns.values():
        x, y, width, height = annotation["bbox"]
        assert x >= 0 and y >= 0 and x + width <= SIZE[1] and y + height <= SIZE[0]
        assert 0 < annotation["area"] <= width * height


def test_empty_images_and_counts_come_as_promised() -> None:
    counts = [len(draw_scene(np.random.default_rng([5, 0, i]), (64, 64))[1]) for i in range(500)]
    assert min(counts) == 0 and max(counts) == 7
    # 8 % of 500 with a standard deviation of 6 images
    assert abs(counts.count(0) - 40) < 20


@pytest.mark.parametrize("class_name", SHAPES)
def test_the_box_is_tight_around_a_shape(class_name: str) -> None:
    """An outline with √(box area) = 60 px, whole in the picture, against its own corners and area."""
    outline = turned_outline(np.random.default_rng(3), class_name, 60.0)
    extent = np.ptp(outline[0], axis=0)
    assert np.sqrt(extent.prod()) == pytest.approx(60)
    shape = place(class_name, outline, np.array([64.0, 64.0]), (128, 128))
    found = pictures._measure(shape, shape.alpha > 127)
    expected = np.concatenate([64 - extent / 2, 64 + extent / 2])
    # A sharp tip covers less than half of its last pixels.
    assert np.abs(np.array(found.box) - expected).max() < 2
    assert found.area == pytest.approx(shape.full_area, rel=0.05)


def test_a_shape_on_the_border_is_cut_and_half_of_it_is_too_little() -> None:
    owner = np.zeros((100, 100), np.uint8)
    inside = place("rectangle", SQUARE, np.array([16.0, 50.0]), (100, 100))  # 36 of 40 columns visible
    assert pictures._measure(inside, inside.alpha > 127).box == (0, 30, 36, 70)
    assert pictures._stays_visible(inside, owner, [])
    half = place("rectangle", SQUARE, np.array([0.0, 50.0]), (100, 100))  # 50 % < 85 %
    assert not pictures._stays_visible(half, owner, [])
    outside = place("rectangle", SQUARE, np.array([-90.0, 50.0]), (100, 100))
    assert not pictures._stays_visible(outside, owner, [])


def test_nothing_is_hidden_beyond_recognition() -> None:
    size = (100, 140)
    below = place("rectangle", SQUARE, np.array([50.0, 50.0]), size)
    owner = np.zeros(size, np.uint8)
    owner[below.crop][below.alpha > 127] = 1
    # Shifted by 36 px of 40, the upper square leaves 90 % of the lower one in view; by 30 px 75 %.
    upper = place("rectangle", SQUARE, np.array([86.0, 50.0]), size)
    assert pictures._stays_visible(upper, owner, [below])
    closer = place("rectangle", SQUARE, np.array([80.0, 50.0]), size)
    assert not pictures._stays_visible(closer, owner, [below])


def test_a_finished_set_is_left_alone_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    image = draw(tmp_path / "set") / "train" / "000001.jpg"
    image.write_bytes(b"touched")
    draw(tmp_path / "set")
    assert image.read_bytes() == b"touched"
    assert "nothing was drawn" in caplog.text


def test_an_interrupted_set_has_no_annotations_and_is_drawn_anew(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert (done, total) == (6, 9)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_synthetic(tmp_path / "set", num_train=6, num_val=3, size=SIZE, workers=1, progress=interrupt)
    assert not list((tmp_path / "set" / "annotations").iterdir())
    assert not json.loads((tmp_path / "set" / "dataset.json").read_text())["finished"]
    (tmp_path / "set" / "train" / "000099.jpg").write_bytes(b"left over")
    assert digests(draw(tmp_path / "set")) == digests(draw(tmp_path / "fresh"))


def test_a_strange_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match="no drawn data set"):
        draw(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").write_bytes(b"mine")
    with pytest.raises(DataError, match="set"):
        draw(tmp_path / "set")


@pytest.mark.parametrize("change", [{"seed": 1}, {"num_train": 2}])
def test_another_drawn_set_is_not_overwritten(tmp_path: Path, change: dict[str, int]) -> None:
    before = digests(draw(tmp_path / "set"))
    with pytest.raises(DataError, match="holds another drawn set"):
        draw(tmp_path / "set", **change)
    assert digests(tmp_path / "set") == before


def test_no_validation_images_is_a_valid_set(tmp_path: Path) -> None:
    folder = draw(tmp_path / "set", num_val=0)
    assert json.loads((folder / "annotations" / "instances_val.json").read_text())["images"] == []


@pytest.mark.parametrize(
    "wrong",
    [{"num_train": 0}, {"num_val": -1}, {"size": (16, 64)}, {"seed": -1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_impossible_arguments_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        make_synthetic(tmp_path / "set", **{"num_train": 1, "num_val": 1, **wrong})
