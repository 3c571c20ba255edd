"""LabelMe: where its files and images lie, which image a file is about, and what becomes of its shapes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ssdlite.data.formats.labelme import LabelMeSource
from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.problems import Problems
from ssdlite.data.formats.registry import format_of
from ssdlite.errors import DataError

from .sets import read_train, rows_of, write, write_images

PLACES = [folder / "shared/data/wild" for folder in Path(__file__).parents]
WILD = next((place for place in PLACES if place.is_dir()), None)


def shape(*points: tuple[float, float], kind: Any = "rectangle", label: Any = "cat", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


BOX = shape((15, 10), (45, 30))


def document(*shapes: Any, **more: Any) -> str:
    content = {"version": "5.4", "flags": {}, "shapes": shapes, "imagePath": "b.jpg", "imageData": None, **more}
    return json.dumps({**content, "imageHeight": 40, "imageWidth": 60})


def boxes_of(folder: Path, *shapes: Any) -> list[list[float]]:
    write_images(folder, "a.jpg")
    write(folder / "a.json", document(*shapes))
    return [box for _, box in rows_of(read_train(folder))["a.jpg"]]


SHAPES = {
    "rectangle": (shape((15, 10), (45, 30)), [15, 10, 45, 30]),
    "rectangle from the lower right": (shape((45, 30), (15, 10)), [15, 10, 45, 30]),
    "rectangle from the upper right": (shape((45, 10), (15, 30)), [15, 10, 45, 30]),
    "rectangle of four corners": (shape((15, 10), (45, 10), (45, 30), (15, 30)), [15, 10, 45, 30]),
    "polygon": (shape((5, 7), (30, 2), (20, 35), kind="polygon"), [5, 2, 30, 35]),
    "of no kind, as old versions write polygons": (shape((5, 7), (30, 2), (20, 35), kind=None), [5, 2, 30, 35]),
    "circle of radius 5, the hypotenuse of 3 and 4": (shape((20, 20), (23, 24), kind="circle"), [15, 15, 25, 25]),
    "circle over the border": (shape((2, 20), (2, 24), kind="circle"), [0, 16, 6, 24]),
    "linestrip": (shape((5, 7), (30, 2), (20, 35), kind="linestrip"), [5, 2, 30, 35]),
    "line": (shape((30, 2), (5, 7), kind="line"), [5, 2, 30, 7]),
    "mask, whose points are its corners": (shape((5, 2), (9, 7), kind="mask", mask="iVBORw0="), [5, 2, 9, 7]),
    "a class that is a number": (shape((5, 2), (9, 7), label=3), [5, 2, 9, 7]),
}


@pytest.mark.parametrize(("given", "expected"), SHAPES.values(), ids=SHAPES)
def test_shapes_become_boxes(tmp_path, given, expected):
    assert boxes_of(tmp_path, given) == [expected]


def test_shapes_without_area_are_left_out_and_said_once(tmp_path, caplog):
    shapes = [shape((5, 5), kind="point"), BOX, shape((5, 5), kind="point"), shape((1, 5), (9, 5), kind="line")]
    assert boxes_of(tmp_path, *shapes) == [[15, 10, 45, 30]]
    assert "left out 2 objects without an area, such as points: a shape 1; a shape 3" in caplog.text
    assert "left out 1 unusable objects: a object 4 (cat) has the box (1, 5, 9, 5)" in caplog.text


def test_shapes_of_one_group_and_class_are_one_object(tmp_path):
    """A cat behind a post is two polygons; the dog of the same group is a dog, and group 2 is another cat."""
    left, right = shape((1, 2), (5, 8), group_id=1), shape((9, 4), (12, 9), group_id=1)
    dog = shape((20, 20), (30, 30), group_id=1, label="dog")
    other = shape((40, 20), (50, 30), group_id=2)
    assert boxes_of(tmp_path, left, dog, right, other, BOX) == [
        [1, 2, 12, 9],
        [20, 20, 30, 30],
        [40, 20, 50, 30],
        [15, 10, 45, 30],
    ]


def test_difficult_objects_are_ignored(tmp_path):
    """As a key of the shape, or as a flag of the user's; a part of a group makes all of it difficult."""
    shapes = [
        {**BOX, "difficult": True},
        {**BOX, "flags": {"difficult": True, "occluded": False}},
        {**BOX, "flags": {"difficult": False}, "difficult": False},
        {**BOX, "flags": None},
        {**BOX, "group_id": 7},
        {**BOX, "group_id": 7, "difficult": True},
    ]
    boxes_of(tmp_path, *shapes)
    (record,) = read_train(tmp_path).records
    assert record.ignore.tolist() == [True, True, False, False, True] and not record.crowd.any()


def test_the_stem_decides_before_image_path(tmp_path):
    """And a file that has no image of its stem takes the one that imagePath names, on whatever machine."""
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    write(tmp_path / "a.json", document(BOX, imagePath="b.jpg"))
    write(tmp_path / "x.json", document(BOX, imagePath="D:\\photos\\of cats\\B.JPG"))
    write(tmp_path / "y.json", document(BOX, imagePath="../elsewhere/c.jpg"))
    assert {record.image_id: record.image_path.name for record in read_train(tmp_path).records} == {
        "a": "a.jpg",
        "x": "b.jpg",
        "y": "c.jpg",
    }


def test_a_second_file_of_an_image_is_left_out(tmp_path, caplog):
    """ "a (copy).json" comes first by name, but a.json has the stem."""
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "a (copy).json", document(BOX, BOX, imagePath="a.jpg"))
    write(tmp_path / "a.json", document(BOX, imagePath="a.jpg"))
    assert rows_of(read_train(tmp_path)) == {"a.jpg": [("cat", [15, 10, 45, 30])]}
    assert "left out 1 annotation of images that have another one: a (copy)" in caplog.text


def test_of_several_images_of_a_stem_image_path_names_one(tmp_path):
    write_images(tmp_path, "a.bmp", "a.png")
    write(tmp_path / "a.json", document(BOX, imagePath="C:\\a.png"))
    assert [*rows_of(read_train(tmp_path))] == ["a.png"]
    write(tmp_path / "a.json", document(BOX, imagePath="b.png"))
    problems = Problems()
    found = format_of(source := LabelMeSource(tmp_path, tmp_path)).read(source, problems)
    assert [path.name for path in found.paths] == ["a.bmp"]
    assert [problem.kind for problem in problems.found] == ["image-ambiguous", "annotation-missing"]


LAYOUTS = {
    "beside": ("{}", "{}"),
    "images and annotations": ("images/{}", "annotations/{}"),
    "beside in images": ("images/{}", "images/{}"),
    "a folder of images in each": ("{}/images", "{}"),
    "folders of images and json in each": ("{}/images", "{}/json"),
}


@pytest.mark.parametrize(("images", "files"), LAYOUTS.values(), ids=LAYOUTS)
def test_splits(tmp_path, images, files):
    """In folders within, around or beside those of images and annotations; the names begin with the split's."""
    for split in ("train", "valid", "test"):
        write_images(tmp_path / images.format(split), f"{split}.jpg", f"{split}2.jpg")
        write(tmp_path / files.format(split) / f"{split}.json", document(BOX))
    layout = find_layout(tmp_path)
    found = [[*rows_of(read_split(part))] for part in (layout.train, layout.val, layout.test)]
    assert found == [["train.jpg"], ["valid.jpg"], ["test.jpg"]]


def test_a_single_file(tmp_path):
    write_images(tmp_path / "images", "a.jpg", "b.jpg")
    for name in ("a", "b"):
        write(tmp_path / f"images/{name}.json", document(BOX))
        write(tmp_path / f"annotations/{name}.json", document(BOX))
    for folder in ("images", "annotations"):
        assert rows_of(read_train(tmp_path / folder / "a.json")) == {"a.jpg": [("cat", [15, 10, 45, 30])]}


def test_leftovers_of_other_machines_and_other_json_files_are_no_annotations(tmp_path, caplog):
    write_images(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "a.json", document(BOX))
    write(tmp_path / "._a.json", b"\0\5\x16\7")
    write(tmp_path / "__MACOSX/._b.json", b"\0\5\x16\7")
    write(tmp_path / "package.json", '{"name": "x"}')
    write(tmp_path / "list.json", "[1]")
    assert [*rows_of(read_train(tmp_path))] == ["a.jpg"]
    assert "left out 1 image without an annotation: b.jpg" in caplog.text


def test_image_data_in_front_of_the_shapes(tmp_path):
    """A tool that sorts the keys writes megabytes of it before the shapes."""
    write_images(tmp_path, "a.jpg")
    content = {**json.loads(document(BOX)), "imageData": "QUJD" * 100_000}
    write(tmp_path / "a.json", json.dumps(content, sort_keys=True))
    assert len(read_train(tmp_path).records[0].boxes) == 1


@pytest.mark.parametrize(
    "size",
    [{"imageHeight": None, "imageWidth": None}, {"imageHeight": 0, "imageWidth": "60"}, {"imageHeight": 1e999}],
)
def test_a_size_that_is_none_is_the_images(tmp_path, size):
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "a.json", json.dumps({**json.loads(document(BOX)), **size}))
    (record,) = read_train(tmp_path).records
    assert record.size == (40, 60)


BROKEN: dict[str, tuple[Any, str]] = {
    "no object": ([1], "shape 1 has no 'label'"),
    "no label": ([{"points": [[1, 2], [3, 4]]}], "shape 1 has no 'label'"),
    "label of nothing": ([shape((1, 2), (3, 4), label=" ")], "shape 1 has the name ' '"),
    "label of control characters": ([shape((1, 2), (3, 4), label="\x1b[31m")], "shape 1 has the name"),
    "label of two values": ([BOX, shape((1, 2), (3, 4), label=["a", "b"])], "shape 2 has no 'label'"),
    "points of another kind": ([{**BOX, "points": {"x": 1}}], "shape 1 has 'points' that are no list"),
    "no points": ([{**BOX, "points": []}], "shape 1 has 'points' that are no list"),
    "half a point": ([{**BOX, "points": [[1], [3, 4]]}], "shape 1 has 'points' that are no list"),
    "text": ([{**BOX, "points": [["x", 2], [3, 4]]}], "shape 1 has x 'x' where a number belongs"),
    "true": ([{**BOX, "points": [[1, True], [3, 4]]}], "shape 1 has y True where a number belongs"),
    "NaN": ([{**BOX, "points": [[1, float("nan")], [3, 4]]}], "shape 1 has y nan where a number belongs"),
    "infinite": ([{**BOX, "points": [[float("inf"), 1], [3, 4]]}], "shape 1 has x inf where a number belongs"),
    "four hundred digits": ([{**BOX, "points": [[10**400, 1], [3, 4]]}], "shape 1 has x 1000"),
    "another kind": ([{**BOX, "shape_type": "star"}], "shape 1 is of the type 'star', which is not known"),
    "a kind of another type": ([{**BOX, "shape_type": [1]}], "shape 1 is of the type [1], which is not known"),
}


@pytest.mark.parametrize(("shapes", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_shapes_get_a_sentence(tmp_path, shapes, message):
    write_images(tmp_path, "a.jpg")
    path = write(tmp_path / "a.json", document(*shapes))
    with pytest.raises(DataError) as caught:
        read_train(tmp_path)
    assert str(caught.value).startswith(f"{path}: {message}"), caught.value


@pytest.mark.parametrize(
    "content", ['{"shapes": ' + "[" * 100_000, '{"shapes": [}', b'{"shapes": "\xff"}', b"{\0}"]
)
def test_files_that_are_no_json_get_a_sentence(tmp_path, content):
    write_images(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "b.json", document(BOX))
    path = write(tmp_path / "a.json", content)
    with pytest.raises(DataError, match="not valid JSON") as caught:
        read_train(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_without_their_images(tmp_path, caplog):
    """One of three is left out; where most are, the folder is the wrong one."""
    write_images(tmp_path, "a.jpg", "b.jpg")
    for name in "abc":
        write(tmp_path / f"{name}.json", document(BOX, imagePath="gone.jpg"))
    assert [*rows_of(read_train(tmp_path))] == ["a.jpg", "b.jpg"]
    assert "left out 1 image whose file is not there: c" in caplog.text
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"b\.json: there is no image 'b' in"):
        read_train(tmp_path)


@pytest.mark.skipif(WILD is None, reason="needs the shared data sets")
def test_a_real_set_equals_counts_made_without_ssdlite():
    assert WILD is not None
    (counts,) = [row for row in json.loads((WILD / "counts.json").read_text()) if row["set"] == "labelme_tony"]
    split = read_train(WILD / "labelme_tony")
    rows = rows_of(split)
    assert (len(rows), sum(map(len, rows.values()))) == (counts["images"], counts["boxes"])
    assert Counter(name for objects in rows.values() for name, _ in objects) == counts["per_class"]
    for image, name, box in counts["samples"]:
        assert any(row[0] == name and row[1] == pytest.approx(box, abs=0.01) for row in rows[image])
