"""Errors are what training refuses, warnings what it leaves out or cuts: never the other way round."""

from __future__ import annotations

import pytest

from ssdlite.data.formats.coco import CocoSource, read_coco
from ssdlite.data.formats.problems import KINDS
from ssdlite.errors import DataError
from ssdlite.validate.check import check_splits, quick_check

from .cases import coco_document, kinds, write_coco

IMAGE = {"id": 9, "file_name": "1.png", "height": 40, "width": 60}
OBJECT = {"id": 99, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 10]}


def plus(key, item):
    """The good document with one more entry in a list."""
    document = coco_document()
    return {**document, key: [*document[key], item]}


def image(**changes):
    return plus("images", {**IMAGE, **changes})


def thing(**changes):
    return plus("annotations", {**OBJECT, **changes})


ERRORS = {
    "no JSON": ("{", "annotations-unreadable"),
    "no list": ({"images": [], "annotations": []}, "annotations-unreadable"),
    "a list": ("[]", "annotations-unreadable"),
    "category without name": (plus("categories", {"id": 8}), "category-broken"),
    "category without id": (plus("categories", {"name": "x"}), "category-broken"),
    "category that is text": (plus("categories", "x"), "category-broken"),
    "category id twice": (plus("categories", {"id": 3, "name": "cow"}), "category-repeated"),
    "category name twice": (plus("categories", {"id": 8, "name": "dog"}), "category-repeated"),
    "image without id": (image(id=None), "image-entry-broken"),
    "image with a list as id": (image(id=[1]), "image-entry-broken"),
    "image without name": (image(file_name=None), "image-entry-broken"),
    "image outside": (image(file_name="../1.png"), "image-entry-broken"),
    "image from the root": (image(file_name="/1.png"), "image-entry-broken"),
    "image id twice": (image(id=2, file_name="2.png"), "image-id-repeated"),
    "size that is text": (image(file_name="1.png", height="high"), "image-size-broken"),
    "size that is a bool": (image(file_name="1.png", height=True), "image-size-broken"),
    "object that is text": (plus("annotations", "x"), "object-broken"),
    "object without image": (thing(image_id=None), "object-broken"),
    "image id as text": (thing(image_id="1"), "object-broken"),
    "object without category": (thing(category_id=None), "object-broken"),
    "unknown category": (thing(category_id=4), "category-unknown"),
    "category as text": (thing(category_id="3"), "category-unknown"),
    "box of three": (thing(bbox=[1, 2, 3]), "object-broken"),
    "box of texts": (thing(bbox=["1", "2", "3", "4"]), "object-broken"),
    "box of bools": (thing(bbox=[1, 2, True, 4]), "object-broken"),
    "neither box nor mask": (thing(bbox=None), "object-broken"),
    "area as text": (thing(area="12"), "object-broken"),
    "crowd of two": (thing(iscrowd=2), "object-broken"),
}
WARNINGS = {
    "no width": (thing(bbox=[5, 5, 0, 10]), "box-degenerate"),
    "not a number": (thing(bbox=[5, 5, float("nan"), 10]), "box-degenerate"),
    "infinite": (thing(bbox=[5, 5, float("inf"), 10]), "box-degenerate"),
    "inverted": (thing(bbox=[25, 15, -20, 10]), "box-inverted"),
    "outside": (thing(bbox=[60, 5, 20, 10]), "box-outside"),
    "over the border": (thing(bbox=[45, 5, 17, 10]), "box-clipped"),
    "of no listed image": (thing(image_id=5), "object-without-image"),
    "same file twice": (image(file_name="1.png"), "image-listed-twice"),
}
NOTES = {
    "no size": (image(file_name="1.png", height=None), "image-without-size"),
    "object id twice": (thing(id=0), "annotation-id-repeated"),
}


def problems_of(folder, document):
    images, annotations = write_coco(folder, document)
    return quick_check([CocoSource(images, annotations)], [])


def test_the_good_document_has_no_problem(tmp_path):
    assert kinds(problems_of(tmp_path, coco_document()), notes=True) == ["no-validation"]


@pytest.mark.parametrize(("document", "kind"), ERRORS.values(), ids=ERRORS)
def test_errors_are_what_the_reader_refuses(tmp_path, document, kind):
    found = problems_of(tmp_path, document)
    assert kind in kinds(found) and KINDS[kind] == "error"
    assert len([problem for problem in found if problem.severity == "error"]) <= 2  # no flood behind one mistake
    with pytest.raises(DataError):
        read_coco(tmp_path / "train", tmp_path / "annotations/instances_train.json")


@pytest.mark.parametrize(("document", "kind"), WARNINGS.values(), ids=WARNINGS)
def test_warnings_are_what_the_reader_leaves_out_or_cuts(tmp_path, document, kind):
    found = problems_of(tmp_path, document)
    assert kinds(found) == [kind] and KINDS[kind] == "warning"
    split = read_coco(tmp_path / "train", tmp_path / "annotations/instances_train.json")
    boxes = sum(len(record.boxes) for record in split.records)
    assert boxes == (41 if kind == "box-clipped" else 40)


@pytest.mark.parametrize(("document", "kind"), NOTES.values(), ids=NOTES)
def test_notes_are_what_the_reader_takes(tmp_path, document, kind):
    found = problems_of(tmp_path, document)
    assert kind in kinds(found, notes=True)
    assert not [problem for problem in found if problem.severity == "error"]
    read_coco(tmp_path / "train", tmp_path / "annotations/instances_train.json")


def test_all_problems_are_found_at_once(tmp_path):
    """Where the reader stops at the first."""
    document = thing(bbox=[1, 2, 3])
    document["annotations"] += [
        {**OBJECT, "id": 100, "category_id": 4},
        {**OBJECT, "id": 101, "bbox": [5, 5, 0, 9]},
    ]
    document["images"].append({**IMAGE, "file_name": "9.png"})
    found = problems_of(tmp_path, document)
    assert kinds(found) == ["box-degenerate", "category-unknown", "image-missing", "object-broken"]
    items = {problem.kind: problem.item for problem in found}
    assert items["object-broken"] == "annotation 99 of image 1 (1.png)"
    assert items["image-missing"] == "image 9 (9.png)"


def test_a_box_is_taken_from_a_mask(tmp_path):
    square = [[60, 5, 70, 5, 70, 15, 60, 15]]
    assert kinds(problems_of(tmp_path, thing(bbox=None, segmentation=[[5, 5, 15, 5, 15, 15, 5, 15]]))) == []
    read_coco(tmp_path / "train", tmp_path / "annotations/instances_train.json")
    found = problems_of(tmp_path, thing(bbox=[70, 5, 10, 10], segmentation=square))
    assert kinds(found) == ["box-outside"]  # the box counts where there is one


def test_ids_that_say_nothing_make_one_problem_each(tmp_path):
    """Forty objects of two images with one id are not forty mistakes."""
    document = coco_document()
    document["images"][1]["id"] = 1
    found = problems_of(tmp_path, document)
    assert kinds(found).count("image-id-repeated") == 1
    assert "object-broken" not in kinds(found)


def test_an_empty_file(tmp_path):
    found = problems_of(tmp_path, {"images": [], "annotations": [], "categories": []})
    assert kinds(found) == ["no-images"]


def test_a_missing_folder_of_images(tmp_path):
    _, annotations = write_coco(tmp_path, coco_document())
    found = quick_check([CocoSource(tmp_path / "none", annotations)], [])
    assert kinds(found) == ["image-folder-missing"]
    with pytest.raises(DataError):
        read_coco(tmp_path / "none", annotations)


def test_an_image_that_cannot_be_opened_is_found(tmp_path):
    """Its name is in the folder, so that only opening it tells."""
    images, annotations = write_coco(tmp_path, coco_document())
    (images / "1.png").unlink()
    (images / "1.png").mkdir()
    source = CocoSource(images, annotations)
    assert kinds(quick_check([source], [])) == []
    (problem,) = check_splits([source], []).problems[:1]
    assert (problem.kind, problem.file) == ("image-missing", images / "1.png")


def test_a_missing_image_without_a_size_is_a_missing_image(tmp_path):
    document = image(file_name="9.png", height=None)
    assert kinds(problems_of(tmp_path, document)) == ["image-missing"]
    split = read_coco(tmp_path / "train", tmp_path / "annotations/instances_train.json")
    assert [record.image_path.name for record in split.records] == ["1.png", "2.png"]


def test_irregular_files_are_read_as_regular_ones(tmp_path):
    """A chunk with one odd annotation goes the slow way, with the same boxes."""
    plain = problems_of(tmp_path / "a", thing(bbox=[60, 5, 20, 10]))
    odd = problems_of(tmp_path / "b", thing(bbox=[60, 5, 20, 10], area=float("nan")))
    assert [(problem.kind, problem.text) for problem in plain] == [(problem.kind, problem.text) for problem in odd]


def test_the_fast_part_opens_no_image(tmp_path):
    images, annotations = write_coco(tmp_path, coco_document())
    (images / "1.png").write_bytes(b"")
    assert kinds(quick_check([CocoSource(images, annotations)], [])) == []
