from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ssdlite.data.formats.coco import read_coco
from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.errors import DataError

from ..conftest import write_image


def note(number: int, **fields) -> dict:
    return {"id": number, "image_id": 1, "category_id": 3, "bbox": [10, 5, 20, 10]} | fields


def test_sparse_ids_become_labels_in_their_order(make_coco) -> None:
    split = read_coco(*make_coco([note(1, category_id=7, area=55.5), note(2)]))
    (record,) = split.records
    assert split.class_names == ("cat", "dog")
    assert split.category_ids == (3, 7)
    assert record.labels.tolist() == [2, 1]
    assert record.boxes.tolist() == [[10, 5, 30, 15]] * 2
    assert record.areas.tolist() == [55.5, 200]
    assert (record.image_id, record.size) == (1, (40, 60))
    assert (record.boxes.dtype, record.labels.dtype, record.ignore.dtype) == (np.float32, np.int64, bool)


def test_crowd_is_ignored(make_coco) -> None:
    (record,) = read_coco(*make_coco([note(1, iscrowd=1), note(2, iscrowd=0)])).records
    assert record.ignore.tolist() == record.crowd.tolist() == [True, False]


def test_boxes_are_clipped_and_useless_ones_named_once(make_coco, caplog) -> None:
    """Of 60x40: one is cut; zero width, inverted, outside, NaN and infinite ones are dropped."""
    bad = [[10, 5, 0, 10], [10, 5, -3, 10], [70, 5, 9, 9], [float("nan"), 5, 9, 9], [5, 5, float("inf"), 9]]
    boxes = [[-10, 30, 80, 20], *bad]
    with caplog.at_level(logging.WARNING):
        split = read_coco(*make_coco([note(number, bbox=box) for number, box in enumerate(boxes)]))
    assert split.records[0].boxes.tolist() == [[0, 30, 60, 40]]
    (message,) = caplog.messages
    assert "5 unusable" in message
    assert "instances_train.json" in message
    assert all(f"annotation {number} of a.png" in message for number in range(1, 6))


def test_many_useless_boxes_are_summarised(make_coco, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        read_coco(*make_coco([note(number, bbox=[1, 1, 0, 0]) for number in range(25)]))
    assert "annotation 9 " in caplog.text
    assert "annotation 10 " not in caplog.text
    assert "and 15 more" in caplog.text


def test_box_from_segmentation(make_coco) -> None:
    """A filled 10..30 x 5..15 as polygon, and as run lengths: 20 columns of 10 pixels, starting after 10·40 + 5."""
    mask = np.zeros((40, 60), np.uint8, order="F")
    mask[5:15, 10:30] = 1
    compressed = coco_mask.encode(mask)
    runs = [405, *[10, 30] * 19, 10, 60 * 40 - 405 - 19 * 40 - 10]
    shapes = [
        [[10, 5, 30, 5, 30, 15, 10, 15]],
        {"size": [40, 60], "counts": runs},
        {"size": [40, 60], "counts": compressed["counts"].decode()},
    ]
    notes = [note(number, segmentation=shape) for number, shape in enumerate(shapes)]
    for item in notes:
        del item["bbox"]
    (record,) = read_coco(*make_coco(notes)).records
    assert record.boxes.tolist() == [[10, 5, 30, 15]] * 3


def test_images_without_objects_and_sizes_are_kept(make_coco) -> None:
    images = [{"id": "x", "file_name": "a.png"}, {"id": 5, "file_name": "sub/b c.png"}]
    split = read_coco(*make_coco([], images=images))
    assert [record.image_id for record in split.records] == ["x", 5]
    assert [record.size for record in split.records] == [(40, 60)] * 2
    assert all(record.boxes.shape == (0, 4) and record.labels.shape == (0,) for record in split.records)


def test_c30_given_names_set_the_labels(make_coco) -> None:
    """A class that only training has takes nothing from the others; its number is one that the file lacks."""
    split = read_coco(*make_coco([note(1), note(2, category_id=7)]), class_names=["ant", "dog", "cat"])
    assert split.records[0].labels.tolist() == [3, 2]
    assert split.category_ids == (8, 7, 3)


def test_c31_unknown_names_are_listed_with_the_known(make_coco) -> None:
    with pytest.raises(DataError, match=r"unknown class names 'cat'; the known ones are 'Cat', 'dog'"):
        read_coco(*make_coco([note(1)]), class_names=["Cat", "dog"])


def test_category_without_objects_may_be_unknown(make_coco) -> None:
    assert read_coco(*make_coco([note(1)]), class_names=["cat"]).records[0].labels.tolist() == [1]


def test_annotation_of_an_unlisted_image_is_reported(make_coco, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        read_coco(*make_coco([note(4, image_id=99)]))
    assert "annotation 4 belongs to image 99" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "no list 'images'"),
        ({"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}, "repeats an id or a name"),
        ({"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]}, "repeats an id or a name"),
        ({"categories": [{"id": 1}]}, "a category has no 'name'"),
        ({"images": [{"id": 1, "file_name": "../a.png"}]}, "leads out of"),
        ({"images": [{"id": 1, "file_name": "/etc/a.png"}]}, "leads out of"),
        ({"images": [{"id": 1, "file_name": "gone.png", "height": 4, "width": 4}]}, "gone.png"),
        ({"images": [{"id": 1}]}, "image 1 has no 'file_name'"),
        ({"images": [{"id": 1, "file_name": "a.png"}] * 2}, "image id 1 is used by several"),
        ({"annotations": [{"id": 8, "image_id": 1, "bbox": [0, 0, 1, 1]}]}, "annotation 8 has no 'category_id'"),
        ({"annotations": [note(8, category_id=5)]}, "annotation 8 has category_id 5"),
        ({"annotations": [note(8, bbox=None)]}, "annotation 8 has neither a bbox"),
        ({"annotations": [note(8, bbox=[1, 2, 3])]}, "annotation 8 has neither a bbox"),
        ({"annotations": [note(8, bbox=["a", 2, 3, 4])]}, "annotation 8 has neither a bbox"),
    ],
)
def test_malformed_files_get_a_sentence(make_coco, change, message) -> None:
    images, path = make_coco([note(1)])
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message) as caught:
        read_coco(images, path)
    assert "instances_train.json" in str(caught.value)


def test_missing_or_unreadable_files(make_coco, tmp_path: Path) -> None:
    images, path = make_coco([])
    with pytest.raises(DataError, match="no such folder of images"):
        read_coco(tmp_path / "nowhere", path)
    with pytest.raises(DataError, match=r"none\.json: the annotations cannot be opened"):
        read_coco(images, tmp_path / "none.json")
    path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_coco(images, path)
    path.write_text("[]")
    with pytest.raises(DataError, match="not a COCO instances file"):
        read_coco(images, path)


def test_captions_beside_instances_are_passed_over(tmp_path):
    """COCO's own captions have images and annotations, but no categories and no boxes."""
    image = {"id": 1, "file_name": "a.png", "height": 40, "width": 60}
    instances = {
        "images": [image],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    captions = {"images": [image] * 20_000, "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]}
    write_image(tmp_path / "images/a.png")
    for name, document in (("train", instances), ("captions_train", captions)):
        path = tmp_path / "annotations" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    layout = find_layout(tmp_path)
    assert [source.annotations.name for source in layout.train] == ["train.json"]
    assert len(read_split(layout.train)) == 1


def test_a_box_of_zeros_beside_a_polygon_is_that_of_the_polygon(tmp_path):
    polygon = [[5, 6, 25, 6, 25, 16]]
    objects = [
        {"bbox": [0, 0, 0, 0], "segmentation": polygon},
        {"bbox": [0, 0, 0, 0], "segmentation": []},
        {"bbox": [0, 0, 0, 0]},
        {"bbox": [1, 2, 3, 4], "segmentation": polygon},
    ]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": [{"id": n, "image_id": 1, "category_id": 1, **each} for n, each in enumerate(objects)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    write_image(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps(document))
    (record,) = read_coco(tmp_path, tmp_path / "a.json").records
    assert record.boxes.tolist() == [[5, 6, 25, 16], [1, 2, 4, 6]]
