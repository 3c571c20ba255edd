"""Formats of one file for each split: each in the forms that its tools write, with boxes worked out by hand."""

from __future__ import annotations

import json

import pytest

from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.registry import source_from_options
from ssdlite.errors import DataError

from .sets import read_train, rows_of, write, write_images

TF = "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,60,40,cat,15,10,45,30\nb.jpg,60,40,dog,1,2,3,4\n"
BOTH = {"a.jpg": [("cat", [15, 10, 45, 30])], "b.jpg": [("dog", [1, 2, 3, 4])]}

CSV = {
    "TensorFlow": TF,
    "TensorFlow, other order": "class,filename,xmin,xmax,ymin,ymax\ncat,a.jpg,15,45,10,30\ndog,b.jpg,1,3,2,4\n",
    "semicolons and capitals": "Filename;Class;XMin;YMin;XMax;YMax\na.jpg;cat;15;10;45;30\nb.jpg;dog;1;2;3;4\n",
    "RetinaNet": "/data/set/a.jpg,15,10,45,30,cat\n/data/set/b.jpg,1,2,3,4,dog\n",
    "quoted": '"filename","class","xmin","ymin","xmax","ymax"\n"a.jpg","cat",15,10,45,30\nb.jpg,"dog",1,2,3,4',
    "a byte order mark and CRLF": "\ufeff" + TF.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("text", CSV.values(), ids=CSV)
def test_csv(tmp_path, text):
    write_images(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "boxes.csv", text)
    for path in (tmp_path, tmp_path / "boxes.csv"):
        assert rows_of(read_train(path)) == BOTH


def test_csv_without_a_class(tmp_path):
    write_images(tmp_path / "training_images", "a.jpg", "b.jpg")
    write(tmp_path / "boxes (1).csv", "image,xmin,ymin,xmax,ymax\na.jpg,15,10,45,30\nb.jpg,1,2,3,4\n")
    assert rows_of(read_train(tmp_path)) == {
        "a.jpg": [("object", [15, 10, 45, 30])],
        "b.jpg": [("object", [1, 2, 3, 4])],
    }


def test_csv_for_each_split(tmp_path):
    """TensorFlow's train_labels.csv, and Roboflow's _annotations.csv in the folder of a split."""
    for name in ("train", "test"):
        write_images(tmp_path / "tf/images" / name, f"{name}.jpg")
        write(tmp_path / f"tf/{name}_labels.csv", TF.splitlines()[0] + f"\n{name}.jpg,60,40,cat,1,2,3,4\n")
    for name in ("train", "valid", "test"):
        write_images(tmp_path / "rf" / name, f"{name}.jpg")
        write(tmp_path / "rf" / name / "_annotations.csv", f"{name}.jpg,1,2,3,4,cat\n")
    for root, expected in (("tf", ["train", "test", "test"]), ("rf", ["train", "valid", "test"])):
        layout = find_layout(tmp_path / root)
        found = [[*rows_of(read_split(part))] for part in (layout.train, layout.val, layout.test)]
        assert found == [[f"{name}.jpg"] for name in expected]


def test_csv_images_without_objects_stay(tmp_path):
    write_images(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path / "boxes.csv", "a.jpg,15,10,45,30,cat\nb.jpg,,,,,\n")
    assert rows_of(read_train(tmp_path)) == {"a.jpg": [("cat", [15, 10, 45, 30])], "b.jpg": []}


def test_xml_is_read_before_the_csv_that_doubles_it(tmp_path):
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "labels.csv", TF)
    write(
        tmp_path / "a.xml",
        "<annotation><object><name>cat</name><difficult>1</difficult><bndbox><xmin>15</xmin><ymin>10</ymin>"
        "<xmax>45</xmax><ymax>30</ymax></bndbox></object></annotation>",
    )
    layout = find_layout(tmp_path)
    assert layout.description.startswith("VOC XML") and "there are CSV annotations as well" in layout.description
    assert read_split(layout.train).records[0].ignore.tolist() == [True]


OPEN_IMAGES = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)


def test_open_images(tmp_path):
    """As its own files, with codes for the classes, and as jetson-inference leaves them, with names."""
    write_images(tmp_path / "train", "0a.jpg")
    write(
        tmp_path / "train-annotations-bbox.csv",
        f"{OPEN_IMAGES}\n0a,x,/m/01,1,0.25,0.75,0.25,0.75,0,0,0,0,0\n0a,x,/m/02,1,0,1,0,1,0,0,1,0,0\n",
    )
    write(tmp_path / "class-descriptions-boxable.csv", "/m/01,Cat\n/m/02,Dog\n")
    split = read_train(tmp_path)
    assert rows_of(split) == {"0a.jpg": [("Cat", [15, 10, 45, 30]), ("Dog", [0, 0, 60, 40])]}
    assert split.records[0].crowd.tolist() == split.records[0].ignore.tolist() == [False, True]
    (tmp_path / "train-annotations-bbox.csv").unlink()
    write(
        tmp_path / "sub-train-annotations-bbox.csv",
        f"{OPEN_IMAGES},id,ClassName\n0a,x,/m/01,1,0.25,0.75,0.25,0.75,0,0,0,0,0,/m/01,Tabby\n",
    )
    assert rows_of(read_train(tmp_path)) == {"0a.jpg": [("Tabby", [15, 10, 45, 30])]}


CVAT = """<?xml version="1.0"?><annotations><version>1.1</version><meta><task/></meta>
<image id="0" name="a.jpg" width="60" height="40">
<box label="cat" xtl="15" ytl="10" xbr="45" ybr="30" occluded="0"/>
<polygon label="dog" points="1,2;3,2;3,4"/><points label="dog" points="1,2"/><tag label="dog"/>
<box label="cat" xtl="20" ytl="15" xbr="40" ybr="25" rotation="90.0"/>
<ellipse label="cat" cx="10" cy="10" rx="2" ry="3"/>
<mask label="cat" left="1" top="2" width="3" height="4"
rle="1"/> </image><image id="1" name="sub/b.jpg" width="60" height="40"></image></annotations>"""


def test_cvat(tmp_path, caplog):
    """Shapes become their boxes: a box of 20x10 that is turned by a quarter is one of 10x20 about its centre."""
    write_images(tmp_path / "images", "a.jpg", "sub/b.jpg")
    write(tmp_path / "annotations.xml", CVAT)
    assert rows_of(read_train(tmp_path)) == {
        "a.jpg": [
            ("cat", [15, 10, 45, 30]),
            ("dog", [1, 2, 3, 4]),
            ("cat", [25, 10, 35, 30]),
            ("cat", [8, 7, 12, 13]),
            ("cat", [1, 2, 4, 6]),
        ],
        "b.jpg": [],
    }
    assert "left out 1 object without an area" in caplog.text


def via(regions, name="a.jpg"):
    return {f"{name}123": {"filename": name, "size": 123, "regions": regions, "file_attributes": {}}}


RECT = {"name": "rect", "x": 15, "y": 10, "width": 30, "height": 20}
POLYGON = {"name": "polyline", "all_points_x": [1, 3, 3], "all_points_y": [2, 2, 4]}
VIA = {
    "version 1": via({"0": {"shape_attributes": RECT, "region_attributes": {"class": "cat"}}}),
    "version 2": via([{"shape_attributes": RECT, "region_attributes": {"kind": "x", "Label": "cat"}}]),
    "a project": {
        "_via_settings": {},
        "_via_img_metadata": via([{"shape_attributes": RECT, "region_attributes": {"kind": {"cat": True}}}]),
    },
    "a path": via([{"shape_attributes": RECT, "region_attributes": {"class": "cat"}}], "D:\\x\\a.jpg"),
}


@pytest.mark.parametrize("document", VIA.values(), ids=VIA)
def test_via(tmp_path, document):
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "via_region_data.json", json.dumps(document))
    assert rows_of(read_train(tmp_path)) == {"a.jpg": [("cat", [15, 10, 45, 30])]}


def test_via_shapes_without_a_class(tmp_path):
    shapes = [
        POLYGON,
        {"name": "circle", "cx": 10, "cy": 10, "r": 2},
        {"name": "ellipse", "cx": 10, "cy": 10, "rx": 2, "ry": 3},
        {"name": "point", "cx": 1, "cy": 1},
    ]
    for split in ("train", "val"):
        write_images(tmp_path / split, "a.jpg")
        regions = [{"shape_attributes": shape, "region_attributes": {}} for shape in shapes]
        write(tmp_path / split / "via_region_data.json", json.dumps(via(regions)))
    layout = find_layout(tmp_path)
    boxes = [[1, 2, 3, 4], [8, 8, 12, 12], [8, 7, 12, 13]]
    for part in (layout.train, layout.val):
        assert rows_of(read_split(part)) == {"a.jpg": [("object", box) for box in boxes]}
    file = tmp_path / "train/via_region_data.json"
    source = source_from_options("via", file=file, images=tmp_path / "train", class_name="head")
    assert read_split([source]).class_names == ("head",)


@pytest.mark.parametrize(("image", "objects"), [("image", "annotations"), ("imagefilename", "annotation")])
def test_create_ml_has_the_centre(tmp_path, image, objects):
    box = {"x": 30, "y": 20, "width": 30, "height": 20}
    for split in ("train", "valid"):
        write_images(tmp_path / split, "a.jpg", "b.jpg")
        document = [
            {image: "a.jpg", objects: [{"label": "cat", "coordinates": box}]},
            {image: "b.jpg", objects: []},
        ]
        write(tmp_path / split / "_annotations.createml.json", json.dumps(document))
    layout = find_layout(tmp_path)
    assert layout.description.startswith("Create ML data") and layout.val
    assert rows_of(read_split(layout.train)) == {"a.jpg": [("cat", [15, 10, 45, 30])], "b.jpg": []}


def labelme(*shapes):
    return json.dumps(
        {"version": "5", "flags": {}, "shapes": shapes, "imagePath": "..\\x\\b.jpg", "imageData": None}
    )


def shape(kind, *points, label="cat"):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}}


@pytest.mark.parametrize("folders", [("", ""), ("images", "images"), ("images", "annotations")])
def test_labelme(tmp_path, folders, caplog):
    """The stem decides, then imagePath; an image without a file is left out."""
    images, annotations = (tmp_path / name for name in folders)
    write_images(images, "a.jpg", "b.jpg", "c.jpg")
    shapes = [
        shape("rectangle", [45, 30], [15, 10]),
        shape("polygon", [1, 2], [3, 2], [3, 4], label="dog"),
        shape("circle", [10, 10], [10, 12]),
        shape("point", [5, 5]),
        shape("linestrip", [1, 1], [4, 5]),
    ]
    write(annotations / "a.json", labelme(*shapes))
    write(annotations / "other.json", labelme(shapes[0]))
    assert rows_of(read_train(tmp_path)) == {
        "a.jpg": [
            ("cat", [15, 10, 45, 30]),
            ("dog", [1, 2, 3, 4]),
            ("cat", [8, 8, 12, 12]),
            ("cat", [1, 1, 4, 5]),
        ],
        "b.jpg": [("cat", [15, 10, 45, 30])],
    }
    assert "left out 1 image without an annotation: c.jpg" in caplog.text
    assert "left out 1 object without an area, such as points: a shape 4" in caplog.text


def test_a_stray_file_of_other_images_does_not_win(tmp_path):
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "annotations.xml", CVAT.replace("a.jpg", "x.jpg").replace("sub/b.jpg", "y.jpg"))
    with pytest.raises(DataError, match=r"annotations\.xml is of the format CVAT, but its images were not found"):
        find_layout(tmp_path)
    write(tmp_path / "boxes.csv", TF.replace("b.jpg", "a.jpg"))
    assert find_layout(tmp_path).description.startswith("CSV data")


BROKEN = {
    "csv": ("a.csv", TF + "a.jpg,60,40,cat,15,ten,45,30\n", "line 4 has ymin 'ten' where a number belongs"),
    "csv, short": ("a.csv", TF + "a.jpg,60\n", "line 4 has 2 values where 8 belong"),
    "csv, no class": ("a.csv", TF + "a.jpg,60,40,,15,10,45,30\n", "line 4 has the name ''"),
    "openimages": ("a.csv", f"{OPEN_IMAGES}\na,x,cat,1,nan,1,0,1,0,0,0,0,0\n", "line 2 has XMin 'nan' where"),
    "cvat": (
        "a.xml",
        CVAT.replace('xtl="15"', 'xtl="left"'),
        "a.jpg object 1 has xtl 'left' where a number belongs",
    ),
    "cvat, points": ("a.xml", CVAT.replace("3,2;3,4", "3"), "a.jpg object 2 has 'points' that are no list"),
    "cvat, doctype": ("a.xml", CVAT.replace("<annotations>", "<!DOCTYPE a><annotations>"), "not a usable XML file"),
    "via": (
        "a.json",
        json.dumps(via([{"shape_attributes": {**RECT, "x": None}}])),
        "a.jpg region 1 has x None where a number belongs",
    ),
    "via, shape": (
        "a.json",
        json.dumps(via([{"shape_attributes": {"name": "star"}}])),
        "a.jpg region 1 has the shape",
    ),
    "via, regions": ("a.json", '{"a": {"filename": "a.jpg", "regions": 3}, "shape_attributes": {}}', "image 1"),
    "createml": (
        "a.json",
        '[{"image": "a.jpg", "annotations": [{"label": "x", "coordinates": {"x": 1, "y": 2, "width": true}}]}]',
        "a.jpg object 1 has width True where a number belongs",
    ),
    "createml, label": (
        "a.json",
        '[{"image": "a.jpg", "annotations": [{"coordinates": {"x": 1}}]}]',
        "a.jpg object 1 has no 'label'",
    ),
    "deep": ("a.json", '{"shape_attributes": ' + "[" * 100_000, "not valid JSON"),
}


@pytest.mark.parametrize(("name", "text", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_files_get_a_sentence(tmp_path, name, text, message):
    write_images(tmp_path, "a.jpg", "b.jpg", "sub/b.jpg")
    path = write(tmp_path / name, text)
    with pytest.raises(DataError) as caught:
        read_train(tmp_path)
    assert str(caught.value).startswith(f"{path}: {message}"), caught.value


LABELME_BROKEN = {
    "no label": ({"points": [[1, 2], [3, 4]]}, "shape 1 has no 'label'"),
    "no points": ({"label": "a", "points": 3}, "shape 1 has 'points' that are no list"),
    "text": ({"label": "a", "points": [["x", 2], [3, 4]]}, "shape 1 has x 'x' where a number belongs"),
    "kind": ({"label": "a", "points": [[1, 2], [3, 4]], "shape_type": "star"}, "shape 1 is of the type 'star'"),
}


@pytest.mark.parametrize(("broken", "message"), LABELME_BROKEN.values(), ids=LABELME_BROKEN)
def test_broken_shapes_of_labelme(tmp_path, broken, message):
    write_images(tmp_path, "a.jpg")
    path = write(tmp_path / "a.json", labelme(broken))
    with pytest.raises(DataError) as caught:
        read_train(tmp_path)
    assert str(caught.value).startswith(f"{path}: {message}"), caught.value
