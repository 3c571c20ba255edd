"""Annotations of further formats with a few things changed at random: a right split or a sentence, nothing else.

Training raises the first of the errors that a check lists. SSDLITE_FUZZ_EXAMPLES as in `test_fuzz`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.registry import source_from_options
from ssdlite.data.images import image_size

from .samples import VOC
from .test_fuzz import (
    as_json,
    changed_bytes,
    changed_documents,
    changed_xml,
    check_reader,
    check_split,
    folder,  # noqa: F401 (a fixture)
    fuzz,
    survives,
)

TENSORFLOW = (
    b"filename,width,height,class,xmin,ymin,xmax,ymax\na.png,60,40,cat,15,10,45,30\nsub/b c.png,60,40,dog,1,2,3,4\n"
)
RETINANET = b"/data/a.png,15,10,45,30,cat\nb c.png,,,,,\n"
OPEN_IMAGES = (
    b"ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
    b"a,x,/m/01,1,0.25,0.75,0.25,0.75,0,0,0,0,0\na,x,/m/02,1,0,1,0,1,0,0,1,0,0\n"
)
CVAT = b"""<?xml version="1.0"?><annotations><version>1.1</version><meta><task/></meta>
<image id="0" name="a.png" width="60" height="40">
<box label="cat" xtl="15" ytl="10" xbr="45" ybr="30" occluded="0"/>
<polygon label="dog" points="1,2;3,2;3,4"/><points label="dog" points="1,2"/><tag label="dog"/>
<box label="cat" xtl="20" ytl="15" xbr="40" ybr="25" rotation="90.0"/>
<ellipse label="cat" cx="10" cy="10" rx="2" ry="3"/>
<mask label="cat" left="1" top="2" width="3" height="4" rle="1"/></image>
<image id="1" name="sub/b c.png" width="60" height="40"></image></annotations>"""
CVAT_PROJECT = CVAT.replace(b'name="a.png"', b'name="a.png" subset="Train"').replace(
    b'name="sub/b c.png"', b'name="sub/b c.png" subset="Test"'
)
SHAPES: list[dict[str, Any]] = [
    {"name": "rect", "x": 15, "y": 10, "width": 30, "height": 20},
    {"name": "polyline", "all_points_x": [1, 3, 3], "all_points_y": [2, 2, 4]},
    {"name": "circle", "cx": 10, "cy": 10, "r": 2},
    {"name": "ellipse", "cx": 10, "cy": 10, "rx": 2, "ry": 3},
]
POINT = {"shape_attributes": {"name": "point", "cx": 1, "cy": 1}, "region_attributes": {}}
VIA: dict[str, Any] = {
    "a.png123": {
        "filename": "a.png",
        "size": 123,
        "regions": [
            {"shape_attributes": shape, "region_attributes": label}
            for shape, label in zip(
                SHAPES, ({"class": "cat"}, {"kind": {"dog": True}}, {}, {"class": "cat"}), strict=True
            )
        ],
        "file_attributes": {},
    },
    "b": {"filename": "sub/b c.png", "regions": {"0": POINT}},
}
YOLO_ROWS = b"0 0.5 0.5 0.2 0.3\n1 0.1 0.1 0.9 0.1 0.9 0.9\n"
YOLO_NAMES = b"cat\ndog\n"
DATA_YAML = (
    b"path: .\ntrain: images/train\nval: [images/val, x]\nnc: 2\nnames: {0: cat, 1: dog}\nkpt_shape: [2, 3]\n"
)


def read_changed(root: Path, path: Path, data: bytes, kind: str, **options: Path) -> None:
    """Write `data` to `path`, and read the source of the format `kind` with these options."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    source = source_from_options(kind, **options)
    check_split(survives(lambda: read_split([source]), root))
    check_reader(source)


SINGLE_FILES = {
    "csv": ("a.csv", TENSORFLOW, changed_bytes(TENSORFLOW) | changed_bytes(RETINANET)),
    "openimages": ("train-annotations-bbox.csv", OPEN_IMAGES, changed_bytes(OPEN_IMAGES)),
    "cvat": ("cvat.xml", CVAT, changed_bytes(CVAT) | changed_bytes(CVAT_PROJECT)),
    "via": ("via.json", as_json(VIA), changed_documents(VIA).map(as_json) | changed_bytes(as_json(VIA))),
}


@pytest.mark.parametrize("kind", SINGLE_FILES)
@fuzz
@given(draws=st.data())
def test_single_files(folder: Path, kind: str, draws: st.DataObject) -> None:  # noqa: F811
    name, _, changed = SINGLE_FILES[kind]
    path = folder / name
    read_changed(folder, path, draws.draw(changed), kind, file=path, images=folder / "images")
    layout = survives(lambda: find_layout(path))
    for sources in (layout.train, layout.val, layout.test) if layout else ():
        if sources:
            check_split(survives(lambda sources=sources: read_split(sources)))


@pytest.mark.parametrize("kind", SINGLE_FILES)
def test_the_samples_are_sound(folder: Path, kind: str) -> None:  # noqa: F811
    """Otherwise all changed ones would be refused for the same reason."""
    name, data, _ = SINGLE_FILES[kind]
    path = folder / name
    path.write_bytes(data)
    split = read_split([source_from_options(kind, file=path, images=folder / "images")])
    assert sum(len(record.boxes) for record in split.records) >= 2
    assert {record.size for record in split.records} == {image_size(folder / "images" / "a.png")}


@fuzz
@given(data=changed_xml() | changed_bytes(VOC.encode()))
def test_voc_without_lists(folder: Path, data: bytes) -> None:  # noqa: F811
    files = folder / "xml"
    read_changed(folder, files / "a.xml", data, "voc-xml", images=folder / "images", annotations=files)


@fuzz
@given(rows=changed_bytes(YOLO_ROWS), names=changed_bytes(YOLO_NAMES) | st.just(YOLO_NAMES))
def test_yolo(folder: Path, rows: bytes, names: bytes) -> None:  # noqa: F811
    images, names_path = folder / "yolo", folder / "classes.txt"
    if not images.exists():
        shutil.copytree(folder / "images", images)
    names_path.write_bytes(names)
    read_changed(folder, images / "a.txt", rows, "yolo", images=images, names=names_path)


@fuzz
@given(data=changed_bytes(DATA_YAML))
def test_data_yaml(folder: Path, data: bytes) -> None:  # noqa: F811
    root = folder / "with yaml"
    if not root.exists():
        shutil.copytree(folder / "images", root / "images/train")
        (root / "labels/train").mkdir(parents=True)
        (root / "labels/train/a.txt").write_bytes(YOLO_ROWS)
    (root / "data.yaml").write_bytes(data)
    check_split(survives(lambda: read_split(find_layout(root).train)))
