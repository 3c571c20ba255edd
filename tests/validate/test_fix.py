"""A cleaned copy has no errors, keeps what was good as it was, and leaves the originals alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ssdlite.data.formats.coco import CocoSource
from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.voc import VocSource
from ssdlite.errors import ConfigError, DataError
from ssdlite.validate.check import check_splits
from ssdlite.validate.problems import count_errors
from ssdlite.validate.repair import FixedCopy, train_command, write_fixed

from .cases import coco_document, kinds, write_coco, write_noise
from .test_coco import ERRORS as COCO_ERRORS
from .test_coco import WARNINGS as COCO_WARNINGS
from .test_voc import ERRORS as VOC_ERRORS
from .test_voc import WARNINGS as VOC_WARNINGS
from .test_voc import annotation, thing, write_voc


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fix(train, val, directory, **options) -> FixedCopy:
    return write_fixed(check_splits(train, val, **options), directory)


def boxes_of(source) -> dict[object, list[list[float]]]:
    return {record.image_id: record.boxes.tolist() for record in read_split([source]).records}


@pytest.mark.parametrize("name", [*COCO_ERRORS, *COCO_WARNINGS])
def test_any_coco_file_that_can_be_read(tmp_path, name):
    document, _ = {**COCO_ERRORS, **COCO_WARNINGS}[name]
    source = CocoSource(*write_coco(tmp_path / "data", document))
    before = snapshot(tmp_path / "data")
    if name in ("no JSON", "no list", "a list"):
        with pytest.raises(DataError, match="can be kept"):
            fix([source], [], tmp_path / "fixed")
        assert not (tmp_path / "fixed").exists()
        return
    copy = fix([source], [], tmp_path / "fixed")
    left = check_splits(copy.train, []).problems
    assert kinds(left) == []  # neither errors nor warnings
    assert find_layout(tmp_path / "fixed").train == copy.train
    read_split(copy.train)
    assert snapshot(tmp_path / "data") == before


@pytest.mark.parametrize("name", [*VOC_ERRORS, *VOC_WARNINGS])
def test_any_voc_file(tmp_path, name):
    cases = {**VOC_ERRORS, **{key: (annotation(objects), kind) for key, (objects, kind) in VOC_WARNINGS.items()}}
    xml, _ = cases[name]
    root = write_voc(tmp_path / "data", {"a": annotation(), "b": xml})
    before = snapshot(root)
    copy = fix([VocSource(root, ("train",))], [], tmp_path / "fixed")
    assert kinds(check_splits(copy.train, []).problems) == []
    assert find_layout(tmp_path / "fixed").train == copy.train
    good = tmp_path / "fixed/Annotations/a.xml"
    assert good.read_bytes() == (root / "Annotations/a.xml").read_bytes()
    assert snapshot(root) == before
    read_split(copy.train)


def test_coco_boxes(tmp_path):
    """Turned, cut, and left out; what is fine stays to the letter."""
    good = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [5.125, 5, 20, 10], "iscrowd": 0, "mine": [1]}
    boxes = {2: [25, 15, -20, -10], 3: [50, 30, 30, 30], 4: [70, 5, 9, 9], 5: [5, 5, 0, 9]}
    odd = [{"id": key, "image_id": 1, "category_id": 7, "bbox": box, "area": 900} for key, box in boxes.items()]
    fine = [{**good, "id": n, "image_id": 2, "bbox": [5.125, 5, 20, n]} for n in range(10, 20)]
    source = CocoSource(*write_coco(tmp_path, coco_document(annotations=[good, *odd, *fine], info={"year": 1})))
    copy = fix([source], [], tmp_path / "fixed")
    document = json.loads(copy.train[0].annotations.read_text())
    assert document["info"] == {"year": 1}
    assert document["annotations"][0] == good and document["annotations"][3:] == fine
    assert document["annotations"][1] == {**odd[0], "bbox": [5, 5, 20, 10], "area": 200}
    assert document["annotations"][2] == {**odd[1], "bbox": [50, 30, 10, 10], "area": 100}
    assert copy.changes == {"boxes turned or cut": 2, "objects left out": 2}
    assert boxes_of(copy.train[0])[1] == [[5.125, 5, 25.125, 15], [5, 5, 25, 15], [50, 30, 60, 40]]


def test_voc_boxes(tmp_path):
    """The same in VOC's counting: 50..62 of 60 becomes 50..60, and 20..5 becomes 5..20, where its repetition
    goes."""
    objects = (
        thing(box=(50, 5, 62, 20))
        + thing(box=(20, 5, 5, 19))
        + thing(box=(2.5, 3, 10.5, 8))
        + thing(box=(5, 5, 5, 5))
        + thing(box=(20, 5, 5, 20))  # turned it repeats the first good one
    )
    root = write_voc(tmp_path / "data", {"a": annotation(objects)})
    copy = fix([VocSource(root, ("train",))], [], tmp_path / "fixed")
    assert boxes_of(copy.train[0])["a"][10:] == [[49, 4, 60, 20], [4, 4, 20, 19], [1.5, 2, 10.5, 8]]
    assert "<xmin>2.5</xmin>" in (tmp_path / "fixed/Annotations/a.xml").read_text()


def test_sizes(tmp_path):
    """Wrong proportions: the size alone. Half of the image: the boxes grow with it."""
    images = [
        {"id": 1, "file_name": "1.png", "height": 60, "width": 40},
        {"id": 2, "file_name": "2.png", "height": 20, "width": 30},
    ]
    objects = [{"id": n, "image_id": 1 + n, "category_id": 3, "bbox": [5, 5, 20, 10]} for n in (0, 1)]
    source = CocoSource(*write_coco(tmp_path, coco_document(images=images, annotations=objects)))
    copy = fix([source], [], tmp_path / "fixed")
    assert boxes_of(copy.train[0]) == {1: [[5, 5, 25, 15]], 2: [[10, 10, 50, 30]]}
    assert copy.changes == {"sizes corrected": 1, "sizes corrected and boxes scaled with them": 1}
    assert kinds(check_splits(copy.train, []).problems) == ["class-without-objects"]


def test_a_box_beyond_the_annotated_size_was_made_on_the_image(tmp_path):
    images = [{"id": 2, "file_name": "2.png", "height": 20, "width": 30}]
    objects = [{"id": 1, "image_id": 2, "category_id": 3, "bbox": [5, 5, 50, 30]}]
    source = CocoSource(*write_coco(tmp_path, coco_document(images=images, annotations=objects)))
    copy = fix([source], [], tmp_path / "fixed")
    assert boxes_of(copy.train[0]) == {2: [[5, 5, 55, 35]]}


def test_voc_sizes_and_difficult(tmp_path):
    size = "<size><width>6</width><height>x</height><depth>3</depth></size>"
    hard = thing(box=(5, 5, 30, 20), extra="<difficult>perhaps</difficult>")
    root = write_voc(tmp_path / "data", {"a": annotation(hard, size=size)})
    copy = fix([VocSource(root, ("train",))], [], tmp_path / "fixed")
    (record,) = read_split(copy.train).records
    assert record.size == (40, 60) and len(record.boxes) == 11 and not record.ignore.any()
    assert (
        "<width>60</width><height>40</height><depth>3</depth>" in (tmp_path / "fixed/Annotations/a.xml").read_text()
    )


def test_boxes_in_the_other_form(tmp_path):
    corners = [[30, 10, 50, 30], [5, 5, 20, 20], [40, 20, 58, 39], [31, 10, 49, 30]]
    objects = [{"id": n, "image_id": 1, "category_id": 3, "bbox": box} for n, box in enumerate(corners)]
    source = CocoSource(*write_coco(tmp_path, coco_document(annotations=objects)))
    report = check_splits([source], [])
    assert "boxes-look-xyxy" in kinds(report.problems)
    for form, expected in {
        "xyxy": corners,
        "xywh": [[30, 10, 60, 40], [5, 5, 25, 25], [40, 20, 60, 40], [31, 10, 60, 40]],
    }.items():
        assert boxes_of(write_fixed(report, tmp_path / f"fixed-{form}", form).train[0])[1] == expected
    with pytest.raises(
        DataError, match=r"its boxes look like xyxy.*convert all of them with --boxes xyxy, or keep"
    ):
        write_fixed(report, tmp_path / "refused")
    boxes = [
        (x + n, y, width, height) for x, y, width, height in [(30, 10, 20, 8), (40, 20, 11, 12)] for n in range(7)
    ]
    sides = "".join(thing(box=box) for box in boxes)
    xml = f"<annotation><size><width>60</width><height>40</height></size>{sides}</annotation>"
    report = check_splits([VocSource(write_voc(tmp_path / "voc", {"a": xml}), ("train",))], [])
    assert "boxes-look-xywh" in kinds(report.problems)
    copy = write_fixed(report, tmp_path / "fixed-voc", "xywh")
    assert copy.changes == {"boxes converted": 14}
    assert boxes_of(copy.train[0])["a"][:8:7] == [[29, 9, 49, 17], [39, 19, 50, 31]]


def test_unusable_and_repeated_images_go(tmp_path):
    source = CocoSource(*write_coco(tmp_path, coco_document()))
    for n, data in {3: b"", 4: b"<html>"}.items():
        (source.images / f"{n}.png").write_bytes(data)
    shutil.copy(source.images / "1.png", source.images / "5.png")
    images = [{"id": n, "file_name": f"{n}.png", "height": 40, "width": 60} for n in range(1, 7)]
    source.annotations.write_text(json.dumps(coco_document(images=images)))
    copy = fix([source], [], tmp_path / "fixed")
    assert sorted(boxes_of(copy.train[0])) == [1, 2] and copy.changes == {"images left out": 4}


def test_spellings_and_unknown_classes(tmp_path):
    """Of cat and Cat, dog and cow, what training knows best stays; cow is only in the validation set."""
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "Cat"}, {"id": 3, "name": "dog"}]
    boxes = [{"id": n, "image_id": 1, "bbox": [5, 5, 20, 10 + n / 4]} for n in range(40)]
    objects = [{**box, "category_id": 2 if n < 20 else (1 if n < 25 else 3)} for n, box in enumerate(boxes)]
    train = CocoSource(*write_coco(tmp_path, coco_document(categories=names, annotations=objects)))
    others = [{"id": 5, "name": "DOG"}, {"id": 6, "name": "cow"}]
    objects = [{**box, "category_id": 5 + n % 2} for n, box in enumerate(boxes)]
    val = CocoSource(*write_coco(tmp_path, coco_document(categories=others, annotations=objects), "val", seed=9))
    copy = fix([train], [val], tmp_path / "fixed")
    assert count_errors(check_splits(copy.train, copy.val).problems) == 0
    fixed = read_split(copy.train)
    assert fixed.class_names == ("Cat", "dog")
    assert np.bincount(np.concatenate([record.labels for record in fixed.records])).tolist() == [0, 25, 15]
    assert sum(len(record.boxes) for record in read_split(copy.val, fixed.class_names).records) == 20
    kept = fix([train], [val], tmp_path / "both", class_names=["cat", "Cat", "dog", "DOG", "cow"])
    assert read_split(kept.train).class_names == ("cat", "Cat", "dog")


def test_voc_names_and_lists(tmp_path):
    """Two lists of one root; a name that is listed twice; a folder for each of two roots."""
    other = annotation().replace("cat", "CAT", 3)
    first = write_voc(tmp_path / "VOC2007", {"a": annotation(), "b": other}, lines="a\nb\na\n")
    write_voc(tmp_path / "VOC2007", {"c": other}, split="test")
    write_noise(first / "JPEGImages/c.png", 99)
    copy = fix([VocSource(first, ("train",))], [VocSource(first, ("test",))], tmp_path / "one")
    assert (copy.train, copy.val) == (
        [VocSource(tmp_path / "one", ("train",))],
        [VocSource(tmp_path / "one", ("test",))],
    )
    assert (tmp_path / "one/ImageSets/Main/train.txt").read_text() == "a\nb\n"
    assert read_split([*copy.train, *copy.val]).class_names == ("cat",)
    second = write_voc(tmp_path / "VOC2012", {"d": annotation()})
    write_noise(second / "JPEGImages/d.png", 98)
    sources = [VocSource(first, ("train",)), VocSource(second, ("train",))]
    copy = fix(sources, [], tmp_path / "two")
    assert copy.train == [VocSource(tmp_path / "two" / name, ("train",)) for name in ("VOC2007", "VOC2012")]
    assert len(read_split(copy.train)) == 3


def test_several_coco_sources_and_the_command(tmp_path):
    sources = [
        CocoSource(*write_coco(tmp_path / name, coco_document(), seed=seed)) for seed, name in ((0, "a"), (9, "b"))
    ]
    single = fix(sources[:1], [], tmp_path / "single")
    assert train_command(single, tmp_path / "single") == f"ssdlite train data={tmp_path / 'single'}"
    double = fix(sources, [], tmp_path / "double")
    command = train_command(double, tmp_path / "double")
    assert "'data.train=[{" in command and "instances_train2.json" in command and "data.val" in command
    assert len(read_split(double.train)) == 4


def test_originals_are_safe(tmp_path):
    source = CocoSource(*write_coco(tmp_path, coco_document()))
    for directory in (tmp_path, source.annotations):
        with pytest.raises(ConfigError, match="something already"):
            fix([source], [], directory)
    (tmp_path / "empty").mkdir()
    fix([source], [], tmp_path / "empty")


def test_nothing_can_be_kept(tmp_path):
    source = CocoSource(*write_coco(tmp_path, coco_document()))
    shutil.rmtree(source.images)
    with pytest.raises(DataError, match="none of its images can be kept"):
        fix([source], [], tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()


def _damage(document, name):
    """Damage a document in place."""
    images, objects = document["images"], document["annotations"]
    match name:
        case "repeated objects":
            objects += [{**each, "id": 900 + each["id"]} for each in objects[:5]]
        case "an id of two images":
            images += [{**images[0], "file_name": "2.png"}]
        case "a broken entry with the id of a good image":
            images += [{"id": 1}]
        case "ids of annotations repeat":
            objects[3]["id"] = objects[4]["id"]
        case "objects of no image":
            objects += [{**objects[0], "id": 999, "image_id": 77}]
        case "no area, inverted, outside":
            objects[0]["bbox"], objects[1]["bbox"] = [5, 5, 0, 9], [25, 15, -20, -10]
            objects[2]["bbox"] = [70, 5, 9, 9]
        case "unknown category":
            objects[0]["category_id"] = 55
        case "text in a box":
            objects[0]["bbox"] = ["a", 1, 2, 3]
        case "a size that is not the image's":
            images[0]["width"] = 66
        case "an image that is not there":
            images += [{"id": 3, "file_name": "3.png", "height": 40, "width": 60}]
            objects += [{**objects[0], "id": 998, "image_id": 3}]
        case "over the border":
            objects[0]["bbox"] = [50, 5, 40, 9]
        case "a crowd that repeats":
            objects[:2] = [{**objects[0], "iscrowd": 1}, {**objects[0], "id": 997, "iscrowd": 1}]


DAMAGES = [
    "repeated objects",
    "an id of two images",
    "a broken entry with the id of a good image",
    "ids of annotations repeat",
    "objects of no image",
    "no area, inverted, outside",
    "unknown category",
    "text in a box",
    "a size that is not the image's",
    "an image that is not there",
    "over the border",
    "a crowd that repeats",
]


@pytest.mark.parametrize("name", DAMAGES)
def test_the_difference_that_is_stated_is_that_of_the_files(tmp_path, name):
    document = coco_document()
    _damage(document, name)
    source = CocoSource(*write_coco(tmp_path, document))
    copy = fix([source], [], tmp_path / "fixed")
    after = json.loads(copy.train[0].annotations.read_text())
    for what, key in (("images left out", "images"), ("objects left out", "annotations")):
        assert copy.changes[what] == len(document[key]) - len(after[key]), copy.changes
    (listed,) = json.loads((tmp_path / "fixed/changes.json").read_text())
    assert listed["changes"] == dict(copy.changes)
    assert len(listed["boxes_changed"]) == copy.changes["boxes turned or cut"]
    assert len({each["id"] for each in after["annotations"]}) == len(after["annotations"])
    assert kinds(check_splits(copy.train, []).problems) == []
    kept = {json.dumps(each["bbox"]) for each in after["annotations"]}
    untouched = {json.dumps(each["bbox"]) for each in document["annotations"][5:]}
    assert len(kept & untouched) >= 15 or name == "an id of two images"  # nothing innocent goes


def test_an_image_whose_id_a_broken_entry_has_keeps_its_objects(tmp_path):
    document = coco_document()
    document["images"].append({"id": 1})
    source = CocoSource(*write_coco(tmp_path, document))
    copy = fix([source], [], tmp_path / "fixed")
    assert copy.changes == {"images left out": 1}
    assert sum(len(boxes) for boxes in boxes_of(copy.train[0]).values()) == 40
