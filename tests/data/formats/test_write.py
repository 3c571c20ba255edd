"""What is written is read again as the same images and objects, whatever the images and classes are called."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.write import WRITERS, distinct_names, shortest, write_splits
from ssdlite.data.images import read_annotated
from ssdlite.errors import ConfigError, DataError
from ssdlite.structures import DataSplit, Record

from ..conftest import write_image

KINDS = [*WRITERS]
NAMES = ("cat", "dog")
BOX = (5.3, 6.7, 20.125, 30.0)


def record(path: Path, boxes: Any = (BOX,), labels: Any = None, ignore: Any = None, crowd: Any = None) -> Record:
    """An image of 60x40, which is written where it is not there."""
    if not path.exists():
        seed = zlib.crc32(path.name.encode())
        write_image(path, pixels=np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    return Record(
        image_path=path,
        image_id=path.stem,
        size=(40, 60),
        boxes=boxes,
        labels=np.ones(count, np.int64) if labels is None else np.array(labels, np.int64),
        ignore=np.zeros(count, bool) if ignore is None else np.array(ignore),
        crowd=np.zeros(count, bool) if crowd is None else np.array(crowd),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
    )


def split_of(*records: Record, names: tuple[str, ...] = NAMES) -> DataSplit:
    return DataSplit([*records], names, tuple(range(1, len(names) + 1)))


def content(split: DataSplit) -> dict[str, list[tuple[Any, ...]]]:
    """Size, and class, box, flag and area of each object, by the image's bytes: its name may be another."""
    return {
        hashlib.sha256(record.image_path.read_bytes()).hexdigest(): [
            (record.size, split.class_names[label - 1], *box, ignored, area)
            for label, box, ignored, area in zip(
                record.labels.tolist(),
                record.boxes.tolist(),
                record.ignore.tolist(),
                record.areas.tolist(),
                strict=True,
            )
        ]
        for record in split.records
    }


def written(splits: dict[str, DataSplit], directory: Path, kind: str) -> dict[str, DataSplit]:
    """Write `splits` and read all that is found there."""
    write_splits(splits, directory, kind)
    layout = find_layout(directory)
    found = {"train": layout.train, "val": layout.val, "test": layout.test}
    return {name: read_split(sources) for name, sources in found.items() if sources}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "names", [("train",), ("train", "val"), ("train", "val", "test"), ("train", "test"), ("val",), ("val", "test")]
)
def test_splits_stay_apart(tmp_path, kind, names):
    """With a test set and no validation set, the test set validates; no image moves to another split."""
    splits = {
        name: split_of(record(tmp_path / f"{name}.png"), record(tmp_path / f"{name}0.png", ())) for name in names
    }
    found = written(splits, tmp_path / "made", kind)
    expected = {**splits, "val": splits.get("val") or splits.get("test")}
    assert {name: content(split) for name, split in found.items()} == {
        name: content(split) for name, split in expected.items() if split is not None
    }


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_the_same_to_the_last_bit(tmp_path, kind):
    """Of all sizes of numbers, next to the border and over the whole image too."""
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (2000, 2, 2)), axis=1) ** rng.choice([1, 4], (2000, 1, 1)) * [60, 40]
    boxes = corners.reshape(-1, 4).astype(np.float32)
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 1e-3).all(axis=1) & (boxes > 1e-6).all(axis=1)]
    boxes = np.concatenate([boxes, [[0, 0, 60, 40], [59, 0, 60, 40], [0.1, 0.2, 0.3, 0.4]]]).astype(np.float32)
    assert len(boxes) > 1500
    before = split_of(record(tmp_path / "a.png", boxes, rng.permutation(len(boxes)) % 2 + 1))
    assert content(written({"train": before}, tmp_path / "made", kind)["train"]) == content(before)


def test_numbers_are_as_short_as_a_person_would_write_them(tmp_path):
    """In COCO x, y, width, height; in VOC the corners counted from 1: (5.3 + 1, 6.7 + 1, 20.125, 30)."""
    assert shortest(np.float32(0.1)) == 0.1
    before = split_of(record(tmp_path / "a.png"))
    write_splits({"train": before}, tmp_path / "coco", "coco")
    document = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert document["annotations"][0]["bbox"] == [5.3, 6.7, 14.825, 23.3]
    write_splits({"train": before}, tmp_path / "voc", "voc")
    text = "".join((tmp_path / "voc/Annotations/a.xml").read_text().split())
    assert "<bndbox><xmin>6.3</xmin><ymin>7.7</ymin><xmax>20.125</xmax><ymax>30</ymax></bndbox>" in text
    write_splits({"train": before}, tmp_path / "yolo", "yolo")
    numbers = (tmp_path / "yolo/labels/train/a.txt").read_text().split()
    assert [float(number) for number in numbers] == pytest.approx(
        [0, 12.7125 / 60, 18.35 / 40, 14.825 / 60, 23.3 / 40]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_flags(tmp_path, kind):
    """COCO and VOC keep what is ignored, each with its own flag; YOLO has none, so those objects are left out."""
    before = split_of(
        record(tmp_path / "a.png", [BOX, (1, 2, 9, 9), (2, 3, 8, 8)], [1, 2, 1], [0, 1, 1], [0, 0, 1])
    )
    left_out = write_splits({"train": before}, tmp_path / "made", kind)
    (found,) = read_split(find_layout(tmp_path / "made").train).records
    if kind == "yolo":
        assert found.boxes.tolist() == before.records[0].boxes[:1].tolist() and [*left_out.values()] == [2]
        return
    assert not left_out and found.ignore.tolist() == [False, True, True]
    assert found.crowd.tolist() == ([False, True, True] if kind == "coco" else [False, False, False])


def test_coco_keeps_ids_areas_and_classes_without_objects(tmp_path):
    one = record(tmp_path / "a.png", [BOX], [2])
    numbered = Record(**{**one.__dict__, "image_id": 77, "areas": np.array([12.5], np.float32)})
    before = DataSplit([numbered], ("cat", "dog", "cow"), (9, 3, 70))
    found = written({"train": before}, tmp_path / "made", "coco")["train"]
    assert (found.class_names, found.category_ids) == (("dog", "cat", "cow"), (3, 9, 70))
    (record_found,) = found.records
    assert (record_found.image_id, record_found.areas.tolist(), record_found.labels.tolist()) == (77, [12.5], [1])


def test_voc_says_that_it_has_no_objects_of_a_single_pixel(tmp_path):
    """Its corners (2, 3, 2, 3) are those of a point."""
    before = split_of(record(tmp_path / "a.png", [(1, 2, 2, 3), (1, 2, 2, 4)]))
    left_out = write_splits({"train": before}, tmp_path / "made", "voc")
    assert left_out == {"objects of a single pixel, which VOC cannot tell from a point": 1}
    assert read_split(find_layout(tmp_path / "made").train).records[0].boxes.tolist() == [[1, 2, 2, 4]]


ODD_NAMES = [
    *("two words.png", "x 1.png", "x -1.png", "#x.png", "%41.png", "d.t.s.png", "'\"<&>.png", "UP.PNG", "ü.png"),
    *(
        "._hidden.png",
        ".hidden.png",
        "end .png",
        " start.png",
        "back\\slash.png",
        "line\nbreak.png",
        "name",
        "a.jpe",
    ),
]


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_any_name_are_found_again(tmp_path, kind):
    records = []
    for number, name in enumerate(ODD_NAMES):
        path = tmp_path / "images" / name
        path.parent.mkdir(exist_ok=True)
        pixels = np.full((40, 60, 3), number, np.uint8)
        Image.fromarray(pixels).save(path, format="PNG")
        records.append(record(path, [(1, 2, 10 + number, 12)]))
    found = written({"train": split_of(*records)}, tmp_path / "made", kind)["train"]
    boxes = {int(read_annotated(one)[0, 0, 0]): one.boxes[0, 2] - 10 for one in found.records}
    assert boxes == {number: number for number in range(len(ODD_NAMES))}
    kept = {one.image_path.name for one in found.records} & {*ODD_NAMES}
    assert kept == {*ODD_NAMES[:9]}  # only names that no reader would find are changed


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_one_name(tmp_path, kind):
    """Of several folders, of one stem, in another case, and in both splits."""
    train = [
        record(tmp_path / name, [(1, 2, 9, 10 + n)]) for n, name in enumerate(("1/a.png", "2/a.png", "2/A.bmp"))
    ]
    splits = {"train": split_of(*train), "val": split_of(record(tmp_path / "a.png", [(1, 2, 9, 20)]))}
    found = written(splits, tmp_path / "made", kind)
    sides = {name: sorted(float(one.boxes[0, 3]) for one in split.records) for name, split in found.items()}
    assert sides == {"train": [10, 11, 12], "val": [20]}


def test_distinct_names():
    records = [record_of(name) for name in ("a.png", "b/A.PNG", "a.jpg", "a-2.png")]
    assert distinct_names(records) == ["a.png", "A-2.PNG", "a.jpg", "a-2-2.png"]
    assert distinct_names(records, by_stem=True) == ["a.png", "A-2.PNG", "a-3.jpg", "a-2-2.png"]


def test_thousands_of_images_of_one_name_take_no_time():
    """A folder for each image is a layout that cameras leave; looking for a free number from 2 on takes minutes."""
    names = distinct_names(record_of(f"{number}/image.jpg") for number in range(30_000))
    assert len({*names}) == 30_000 and names[-1] == "image-30000.jpg"


def record_of(name: str) -> Record:
    none = np.zeros(0)
    return Record(Path(name), name, (1, 1), none.reshape(0, 4), none, none, none, none)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["<&>", "a b", "1", "1e5", "no", "null", "~", "- x", "x: y", "'", '"', "{a}", "#c", "@", "ü", "a,b", "*a"],
)
def test_classes_of_any_name(tmp_path, kind, name):
    before = split_of(record(tmp_path / "a.png"), names=(name,))
    assert written({"train": before}, tmp_path / "made", kind)["train"].class_names == (name,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a\tb", "\ud800", "\x1b[31m", "\ufffe", " "])
def test_classes_that_cannot_be_written(tmp_path, kind, name):
    before = split_of(record(tmp_path / "a.png"), names=(name,))
    with pytest.raises(DataError, match="plain characters"):
        write_splits({"train": before}, tmp_path / "made", kind)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [3, 5, 6, 7, 8])
def test_boxes_on_the_stored_side_of_a_turned_photograph(tmp_path, kind, orientation):
    """A bright square at (10, 4, 30, 14) of the stored 60x40 is inside its box, however the image is read."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[4:14, 10:30] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    box = (30, 26, 50, 36) if orientation == 3 else (10, 4, 30, 14)  # of a half turn the size says nothing
    before = split_of(record(tmp_path / "a.png", [box]))
    (found,) = written({"train": before}, tmp_path / "made", kind)["train"].records
    x1, y1, x2, y2 = np.round(found.boxes[0]).astype(int).tolist()
    bright = read_annotated(found)[..., 0] == 255
    assert bright[y1:y2, x1:x2].all() and bright.sum() == (y2 - y1) * (x2 - x1) == 200


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_linked_copied_or_left(tmp_path, kind):
    before = split_of(record(tmp_path / "a.png"))
    source = tmp_path / "a.png"
    for mode, expected in (("link", [True]), ("copy", [False]), ("none", [])):
        write_splits({"train": before}, tmp_path / mode, kind, images=mode)
        images = [*(tmp_path / mode).rglob("*.png")]
        assert [path.samefile(source) for path in images] == expected
        assert all(path.read_bytes() == source.read_bytes() for path in images)


def test_nothing_is_written_over(tmp_path):
    before = split_of(record(tmp_path / "data/a.png"))
    for directory in (tmp_path / "data", tmp_path / "data/a.png"):
        with pytest.raises(ConfigError, match="there is something already; name a new folder"):
            write_splits({"train": before}, directory, "coco")
    with pytest.raises(ConfigError, match="no format that can be written; they are coco, voc, yolo"):
        write_splits({"train": before}, tmp_path / "new", "csv")
    gone = split_of(record(tmp_path / "data/a.png"), record(tmp_path / "gone.png"))
    (tmp_path / "gone.png").unlink()
    with pytest.raises(DataError, match=r"gone\.png: the image cannot be copied to .* \(No such file"):
        write_splits({"train": gone}, tmp_path / "new", "coco")
