"""Create ML: its variants, the images that its names lead to, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.errors import DataError

from .sets import read_train, rows_of, write, write_images

CENTRE = {"x": 30, "y": 20, "width": 30, "height": 20}
THING = {"label": "cat", "coordinates": CENTRE}
ROWS = {"a.jpg": [("cat", [15, 10, 45, 30])], "b.jpg": []}


def document(*objects: Any, image: str = "a.jpg", second: str = "b.jpg") -> str:
    return json.dumps([{"image": image, "annotations": objects}, {"image": second, "annotations": []}])


VARIANTS: dict[str, Any] = {
    "Create ML": [{"image": "a.jpg", "annotations": [THING]}, {"image": "b.jpg", "annotations": []}],
    "older": [{"imagefilename": "a.jpg", "annotation": [THING]}, {"imagefilename": "b.jpg", "annotation": []}],
    "capitals": [{"imageFilename": "a.jpg", "annotations": [THING]}, {"imageFilename": "b.jpg"}],
    "null": [{"image": "a.jpg", "annotations": [THING]}, {"image": "b.jpg", "annotations": None}],
    "paths": [{"image": "C:\\set\\a.jpg", "annotations": [THING]}, {"image": "./b.jpg", "annotations": []}],
    "an image twice": [{"image": "a.jpg"}, {"image": "b.jpg"}, {"image": "a.jpg", "annotations": [THING]}],
    "text for numbers": [
        {"image": "a.jpg", "annotations": [{**THING, "coordinates": {k: str(v) for k, v in CENTRE.items()}}]},
        {"image": "b.jpg"},
    ],
}


@pytest.mark.parametrize("content", VARIANTS.values(), ids=VARIANTS)
def test_variants(tmp_path, content):
    write_images(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "boxes.json", json.dumps(content))
    for path in (tmp_path, tmp_path / "boxes.json"):
        assert rows_of(read_train(path)) == ROWS


PLACES = {
    "Roboflow": ("{}/_annotations.createml.json", "{}"),
    "in annotations": ("annotations/{}.json", "images/{}"),
    "at the root": ("{}.json", "images/{}"),
    "a folder of images in each": ("{}/annotations.json", "{}/images"),
    "beside folders of the splits": ("labels_{}.json", "{}"),
}


@pytest.mark.parametrize(("file", "images"), PLACES.values(), ids=PLACES)
def test_splits(tmp_path, file, images):
    for split in ("train", "valid", "test"):
        write_images(tmp_path / images.format(split), f"{split}.jpg", f"{split}2.jpg")
        write(tmp_path / file.format(split), document(THING, image=f"{split}.jpg", second=f"{split}2.jpg"))
    layout = find_layout(tmp_path)
    found = [sorted(rows_of(read_split(part))) for part in (layout.train, layout.val, layout.test)]
    assert found == [["train.jpg", "train2.jpg"], ["valid.jpg", "valid2.jpg"], ["test.jpg", "test2.jpg"]]


def test_a_file_of_images_without_objects_is_known_by_its_name(tmp_path):
    write_images(tmp_path / "train", "a.jpg", "b.jpg")
    write_images(tmp_path / "valid", "a.jpg", "b.jpg")
    write(tmp_path / "train/_annotations.createml.json", document(THING))
    write(tmp_path / "valid/_annotations.createml.json", document())
    assert rows_of(read_split(find_layout(tmp_path).val)) == {"a.jpg": [], "b.jpg": []}


def test_images_of_a_data_set_beside_are_not_taken(tmp_path):
    """Both sets have an a.jpg, as sets of numbered images do; a stray file must not win with the other's."""
    write_images(tmp_path / "other/images", "a.jpg")
    write(tmp_path / "mine/boxes.json", document(THING))
    write_images(tmp_path / "mine/images", "c.jpg")
    with pytest.raises(DataError, match=r"boxes\.json is of the format Create ML, but its images were not found"):
        find_layout(tmp_path / "mine")
    for path in (tmp_path / "set/annotations/boxes.json", tmp_path / "set/annotations"):
        write_images(tmp_path / "set/images", "a.jpg", "b.jpg")
        write(tmp_path / "set/annotations/boxes.json", document(THING))
        assert rows_of(read_train(path)) == ROWS  # but images beside a folder of annotations are its own


def test_missing_images_are_left_out_and_said_once(tmp_path, caplog):
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "boxes.json", document(THING))
    assert rows_of(read_train(tmp_path)) == {"a.jpg": ROWS["a.jpg"]}
    assert "left out 1 image whose file is not there: b.jpg" in caplog.text


def broken(*objects: Any) -> list[Any]:
    return [{"image": "a.jpg", "annotations": [THING, *objects]}]


def coordinates(**changes: Any) -> list[Any]:
    return broken({**THING, "coordinates": {**CENTRE, **changes}})


BROKEN: dict[str, tuple[Any, str]] = {
    "no image": ([{"annotations": [THING]}], "image 1 of the list has no 'image'"),
    "no entry": ([{"image": "a.jpg", "annotations": [THING]}, 7], "image 2 of the list has no 'image'"),
    "an image of another type": ([{"image": 3, "annotations": [THING]}], "image 1 of the list has no 'image'"),
    "objects of another type": (
        [{"image": "a.jpg", "annotations": [THING]}, {"image": "a.jpg", "annotations": {"label": "cat"}}],
        "image 2 ('a.jpg') has 'annotations' that are no list",
    ),
    "no object": (broken(7), "a.jpg object 2 has no 'label' or no 'coordinates'"),
    "no label": (broken({"coordinates": CENTRE}), "a.jpg object 2 has no 'label' or no 'coordinates'"),
    "label of nothing": (broken({**THING, "label": ""}), "a.jpg object 2 has the name ''"),
    "a list of numbers": (broken({**THING, "coordinates": [1, 2, 3, 4]}), "a.jpg object 2 has no 'label' or no"),
    "no width": (coordinates(width=None), "a.jpg object 2 has width None where a number belongs"),
    "text": (coordinates(x="left"), "a.jpg object 2 has x 'left' where a number belongs"),
    "true": (coordinates(y=True), "a.jpg object 2 has y True where a number belongs"),
    "NaN": (coordinates(height=float("nan")), "a.jpg object 2 has height nan where a number belongs"),
    "infinite": (coordinates(x=float("-inf")), "a.jpg object 2 has x -inf where a number belongs"),
    "four hundred digits": (coordinates(x=10**400), "a.jpg object 2 has x 1000"),
    "a list": (coordinates(x=[1]), "a.jpg object 2 has x [1] where a number belongs"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_entries_get_a_sentence(tmp_path, content, message):
    write_images(tmp_path, "a.jpg")
    path = write(tmp_path / "x.createml.json", json.dumps(content))
    with pytest.raises(DataError) as caught:
        read_train(tmp_path)
    assert str(caught.value).startswith(f"{path}: {message}"), caught.value


@pytest.mark.parametrize(
    "content",
    ['[{"coordinates": ' + "[" * 100_000, '[{"coordinates"', b'[{"image": "\xff", "coordinates": 1}]', "[,]"],
)
def test_files_that_are_no_json_get_a_sentence(tmp_path, content):
    write_images(tmp_path, "a.jpg")
    path = write(tmp_path / "x.createml.json", content)
    with pytest.raises(DataError, match="not valid JSON") as caught:
        read_train(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_boxes_without_area_are_left_out_and_said_once(tmp_path, caplog):
    write_images(tmp_path, "a.jpg", "b.jpg")
    flat, inverted = ({**THING, "coordinates": {**CENTRE, "width": width}} for width in (0, -4))
    write(tmp_path / "x.json", document(flat, THING, inverted))
    assert rows_of(read_train(tmp_path)) == ROWS
    assert "left out 2 unusable objects: a.jpg object 1 (cat) has the box (30, 10, 30, 30)" in caplog.text


def test_other_json_lists_are_not_create_ml(tmp_path):
    """Label Studio's tasks and this program's own predictions have images too."""
    for number, content in enumerate(
        (
            [{"id": 1, "annotations": [{"result": []}], "data": {"image": "a.jpg"}}],
            [{"image": "a.jpg", "width": 60, "height": 40, "detections": []}],
        )
    ):
        folder = Path(tmp_path / str(number))
        write_images(folder, "a.jpg")
        write(folder / "a.json", json.dumps(content))
        with pytest.raises(DataError, match="no data set was recognised"):
            find_layout(folder)
