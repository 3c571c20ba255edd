"""Problems that need several images or both splits."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from ssdlite.data.formats.coco import CocoSource
from ssdlite.data.formats.layout import read_split
from ssdlite.data.formats.problems import Problem
from ssdlite.data.images import read_annotated
from ssdlite.errors import DataError
from ssdlite.validate.check import check_splits, quick_check
from ssdlite.validate.problems import by_severity, count_errors, summarise, summary_lines

from .cases import coco_document, kinds, write_coco, write_noise


@pytest.fixture
def sources(tmp_path):
    train = CocoSource(*write_coco(tmp_path, coco_document()))
    val = CocoSource(*write_coco(tmp_path, coco_document(), "val", seed=10))
    return [train], [val]


def test_good_data(sources):
    report = check_splits(*sources)
    assert report.problems == [] and report.num_images == 4 and report.num_objects == 80
    assert report.class_names == ["cat", "dog"] and report.image_seconds > 0


def test_nothing_to_check():
    assert quick_check([], []) == []


def test_training_images_to_validate_on(sources):
    train, _ = sources
    assert kinds(check_splits(train, train).problems, notes=True) == ["no-validation"]


def test_only_a_validation_set(sources):
    assert check_splits([], sources[1]).problems == []


def test_copies(sources):
    """Of the two training images, 2 becomes a copy of 1; and one of the validation images is another."""
    train, val = sources
    shutil.copy(train[0].images / "1.png", train[0].images / "2.png")
    shutil.copy(train[0].images / "1.png", val[0].images / "2.png")
    report = check_splits(train, val)
    assert kinds(report.problems) == ["image-in-both-splits", "image-repeated"]
    files = {problem.kind: problem.file for problem in report.problems}
    assert files["image-in-both-splits"] == val[0].images / "2.png"
    assert quick_check(train, val) == []  # their names tell nothing
    read_split(train)
    assert report.train[0].repeated.sum() == 1


def test_of_copies_the_one_with_more_objects_stays(tmp_path):
    objects = coco_document()["annotations"]
    for keeper in (1, 2):
        lone = {**objects[0], "image_id": 3 - keeper}
        document = coco_document(annotations=[lone, *({**item, "image_id": keeper} for item in objects[1:])])
        source = CocoSource(*write_coco(tmp_path / str(keeper), document))
        shutil.copy(source.images / "1.png", source.images / "2.png")
        repeated = check_splits([source], []).train[0].repeated
        assert repeated.tolist() == [keeper != 1, keeper != 2]


def test_one_file_in_both_splits_shows_without_its_bytes(sources):
    train, _ = sources
    document = coco_document(images=coco_document()["images"][:1])
    document["annotations"] = [item for item in document["annotations"] if item["image_id"] == 1]
    other = train[0].annotations.with_name("instances_val.json")
    import json

    other.write_text(json.dumps(document))
    found = quick_check(train, [CocoSource(train[0].images, other)])
    assert kinds(found) == ["image-in-both-splits"]


def test_sizes_that_disagree(sources):
    train, val = sources
    write_noise(train[0].images / "1.png", 1, size=(41, 60))
    (problem,) = check_splits(train, val).problems
    assert problem.kind == "size-mismatch" and "is 60x41 but its annotation says 60x40" in problem.text
    (record,) = [record for record in read_split(train).records if record.image_id == 1]
    with pytest.raises(DataError):
        read_annotated(record)


def test_a_size_that_is_missing_is_that_of_the_image(tmp_path):
    """What reaches over the border shows with the image only."""
    images = [{"id": n, "file_name": f"{n}.png"} for n in (1, 2)]
    far = {"id": 99, "image_id": 1, "category_id": 3, "bbox": [50, 5, 20, 10]}
    document = coco_document(images=images, annotations=[*coco_document()["annotations"], far])
    source = CocoSource(*write_coco(tmp_path, document))
    assert kinds(quick_check([source], [])) == []
    assert kinds(check_splits([source], []).problems) == ["box-clipped"]
    read_split([source])


def test_images_without_objects_are_notes(tmp_path):
    annotations = [{**item, "image_id": 1} for item in coco_document()["annotations"]]
    source = CocoSource(*write_coco(tmp_path, coco_document(annotations=annotations)))
    found = quick_check([source], [])
    assert [problem.item for problem in found if problem.kind == "image-without-objects"] == ["image 2 (2.png)"]


def test_summaries(tmp_path):
    found = [
        Problem("image-grey", tmp_path, "a", "is grey"),
        Problem("box-clipped", tmp_path, "b", "is cut"),
        Problem("object-broken", tmp_path, "c", "is broken"),
        Problem("box-clipped", tmp_path, "d", "is cut"),
    ]
    assert [problem.item for problem in by_severity(found)] == ["c", "b", "d", "a"]
    assert [(row.kind, row.num, row.first.item) for row in summarise(found)] == [
        ("object-broken", 1, "c"),
        ("box-clipped", 2, "b"),
        ("image-grey", 1, "a"),
    ]
    assert summary_lines(found) == [
        f"1 x object-broken: {tmp_path}: c: is broken",
        f"2 x box-clipped: {tmp_path}: b: is cut, and so on",
    ]
    assert count_errors(found) == 1
    assert summarise([]) == summary_lines([]) == []


def test_real_helmet_has_copies(real_data):
    """18 images are there twice within a split and 11 of those to validate on are learnt (counted by md5sum)."""
    from ssdlite.data.formats.layout import find_layout

    layout = find_layout(real_data / "helmet")
    report = check_splits(layout.train, layout.val)
    assert kinds(report.problems) == [*["image-in-both-splits"] * 11, *["image-repeated"] * 18, "object-repeated"]
    assert np.sum([source.repeated.sum() for source in (*report.train, *report.val)]) == 18
