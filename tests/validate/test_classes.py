from __future__ import annotations

from collections import Counter

import pytest

from ssdlite.data.formats.coco import CocoSource
from ssdlite.data.formats.layout import read_split
from ssdlite.errors import DataError
from ssdlite.validate.check import quick_check
from ssdlite.validate.rules import Census, merge_spellings

from .cases import coco_document, kinds, write_coco

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def census(**counts: int) -> Census:
    names = {name.replace("_", " "): count for name, count in counts.items()}
    return Census(list(names), Counter(names), Counter(names), {})


def test_the_most_frequent_spelling_wins():
    assert merge_spellings(census(Car=3, car=9), census(CAR=5), ()) == {"Car": "car", "CAR": "car"}
    assert merge_spellings(census(Car=3), census(car=9), ()) == {"car": "Car"}  # training decides
    assert merge_spellings(census(traffic_light=3), census(), ("Traffic  light",)) == {
        "traffic light": "Traffic  light"
    }
    assert merge_spellings(census(Car=3, car=3), census(), ()) == {"car": "Car"}  # the first at a tie
    assert merge_spellings(census(Car=3, car=9), census(), ("Car", "car")) == {}  # the user wants both
    assert merge_spellings(census(), census(), ()) == {}


def sources(folder, train_categories=CATEGORIES, val_categories=CATEGORIES):
    train = CocoSource(*write_coco(folder, coco_document(categories=train_categories)))
    val = CocoSource(*write_coco(folder, coco_document(categories=val_categories), "val", seed=10))
    return [train], [val]


def renamed(name):
    return [CATEGORIES[0], {"id": 7, "name": name}]


def test_equal_classes(tmp_path):
    assert quick_check(*sources(tmp_path)) == []


def test_a_class_that_training_does_not_know(tmp_path):
    train, val = sources(tmp_path, val_categories=renamed("dgo"))
    found = quick_check(train, val)
    assert kinds(found, notes=True) == ["class-not-in-validation", "class-unknown"]
    (unknown,) = [problem for problem in found if problem.kind == "class-unknown"]
    assert (unknown.file, unknown.item) == (val[0].annotations, "dgo") and "did you mean 'dog'?" in unknown.text
    with pytest.raises(DataError, match="unknown class names 'dgo'"):
        read_split(val, ["cat", "dog"])
    assert kinds(quick_check(train, val, ignore_unknown=True)) == ["class-left-out"]
    read_split(val, ["cat", "dog"], ignore_unknown=True)


def test_a_name_without_objects_is_no_problem(tmp_path):
    categories = [*CATEGORIES, {"id": 9, "name": "cow"}]
    assert quick_check(*sources(tmp_path, val_categories=categories)) == []
    found = quick_check(*sources(tmp_path / "b", train_categories=categories))
    assert kinds(found, notes=True) == ["class-without-objects"]
    assert found[0].item == "cow"


def test_given_names(tmp_path):
    train, val = sources(tmp_path)
    assert kinds(quick_check(train, val, ["cat"])) == ["class-unknown", "class-unknown"]  # in both splits
    with pytest.raises(DataError):
        read_split(train, ["cat"])
    found = quick_check(train, val, ["cow"], ignore_unknown=True)
    assert kinds(found).count("no-classes") == 2 and "class-without-objects" in kinds(found)


def test_spellings(tmp_path):
    """Two spellings in training are two classes to the reader; one that only validation has is refused."""
    categories = [*CATEGORIES, {"id": 9, "name": "Dog "}]
    annotations = [
        *coco_document()["annotations"],
        *({"id": n, "image_id": 1, "category_id": 9, "bbox": [1, 1, 9, n / 5]} for n in range(50, 65)),
    ]
    train = [CocoSource(*write_coco(tmp_path, coco_document(categories=categories, annotations=annotations)))]
    (problem,) = [problem for problem in quick_check(train, []) if problem.severity != "note"]
    assert (problem.kind, problem.item) == ("class-spelling", "Dog ")
    assert read_split(train).class_names == ("cat", "dog", "Dog ")
    found = quick_check(*sources(tmp_path / "b", val_categories=renamed("Dog")))
    (problem,) = [problem for problem in found if problem.severity != "note"]
    assert problem.kind == "class-unknown" and "did you mean 'dog'?" in problem.text


def test_few_objects_and_crowds(tmp_path):
    objects = [{**item, "category_id": 3} for item in coco_document()["annotations"]]
    objects += [{**objects[0], "category_id": 7, "id": 100 + n, "iscrowd": int(n > 2)} for n in range(30)]
    train = [CocoSource(*write_coco(tmp_path, coco_document(annotations=objects)))]
    (few,) = [problem for problem in quick_check(train, []) if problem.kind == "class-with-few-objects"]
    assert few.item == "dog" and "only 3 objects" in few.text


def test_no_class_at_all(tmp_path):
    train = [CocoSource(*write_coco(tmp_path, coco_document(annotations=[], categories=[])))]
    assert kinds(quick_check(train, [])) == ["no-classes"]
