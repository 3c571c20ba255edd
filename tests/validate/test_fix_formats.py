"""A cleaned copy of a set that is neither COCO nor VOC is COCO, as `convert-data` writes it."""

from __future__ import annotations

import json

from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.write import write_splits
from ssdlite.validate.check import check_splits
from ssdlite.validate.repair import write_fixed

from .cases import write_noise


def labelme(*boxes, label="cat", **more):
    shapes = [
        {"label": label, "points": [box[:2], box[2:]], "shape_type": "rectangle", "flags": {}, **more}
        for box in boxes
    ]
    return json.dumps({"shapes": shapes, "imagePath": "", "imageHeight": 40, "imageWidth": 60})


def test_a_set_without_mistakes_is_converted(tmp_path):
    """The two files are equal, flags and fractions included."""
    folder = tmp_path / "data"
    for number, name in enumerate(("a.png", "b.png", "none.png")):
        write_noise(folder / name, seed=number)
    (folder / "b.json").write_text(labelme((1.1, 2.3, 30.7, 20.9), (0, 0, 60, 40), label="dog"))
    (folder / "a.json").write_text(labelme((5, 6, 7.25, 9), difficult=True))
    (folder / "none.json").write_text(labelme())
    sources = find_layout(folder).train
    copy = write_fixed(check_splits(sources, []), tmp_path / "fixed")
    write_splits({"train": read_split(sources)}, tmp_path / "converted", "coco")
    fixed, converted = (
        json.loads((tmp_path / name / "annotations/instances_train.json").read_text())
        for name in ("fixed", "converted")
    )
    assert fixed == converted
    assert fixed["annotations"][1]["bbox"] == [1.1, 2.3, 29.6, 18.6]
    assert [item["iscrowd"] for item in fixed["annotations"]] == [1, 0, 0]
    assert not +copy.changes
    assert [source.images.resolve() for source in copy.train] == [folder]  # and no image was copied


def test_a_set_with_mistakes_is_cleaned(tmp_path):
    """Inverted corners are in order already; a box over the border is cut, one outside goes."""
    folder = tmp_path / "data"
    write_noise(folder / "a.png")
    (folder / "a.json").write_text(labelme((30, 20, 10, 5), (50, 30, 70, 50), (70, 5, 80, 9)))
    copy = write_fixed(check_splits(find_layout(folder).train, []), tmp_path / "fixed")
    (record,) = read_split(copy.train).records
    assert record.boxes.tolist() == [[10, 5, 30, 20], [50, 30, 60, 40]]
    assert copy.changes == {"boxes turned or cut": 1, "objects left out": 1}
