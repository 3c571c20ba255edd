"""A format that the package does not know: a module and a line in the registry are all that it needs."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from ssdlite.build.data import read_data
from ssdlite.config.data import source_section
from ssdlite.config.schema import load_config
from ssdlite.data.formats import registry
from ssdlite.data.formats.base import Annotations, Format, Found, find_missing_images
from ssdlite.data.formats.layout import find_layout, read_split, require_files
from ssdlite.data.formats.problems import Problems, StrictProblems
from ssdlite.data.formats.registry import options_of_source, source_from_options
from ssdlite.data.formats.voc import VocSource
from ssdlite.errors import ConfigError, DataError
from tests.conftest import TINY


@dataclass(frozen=True)
class BoxListSource:
    """A CSV file with one box a line."""

    file: Path
    delimiter: str = ","

    def __str__(self) -> str:
        return str(self.file)


class BoxListFormat(Format[BoxListSource]):
    """`image,class,x1,y1,x2,y2`, where the path of an image is that from the CSV file."""

    name = "boxes"
    looked_for = "train.csv (box list)"
    source_type = BoxListSource

    def find(self, path: Path) -> Found | None:
        train, val = (
            [BoxListSource(file)] if file.is_file() else [] for file in (path / "train.csv", path / "val.csv")
        )
        return Found("Box list", train, val) if train or val else None

    def read(self, source: BoxListSource, problems: Problems) -> Annotations:
        found = Annotations(source, source.file)
        owners: dict[str, int] = {}
        for number, row in enumerate(csv.reader(source.file.open(), delimiter=source.delimiter), 1):
            with problems.catch("object-broken", source.file, f"line {number}"):
                if len(row) != 6:
                    raise DataError(f"{source.file}: line {number} has {len(row)} values where 6 belong")
                image, class_name, x1, y1, x2, y2 = row
                if image not in owners:
                    owners[image] = found.add_image(source.file.parent / image, image)
                box = float(x1), float(y1), float(x2), float(y2)
                found.add_object(owners[image], found.label_of(class_name), box, position=number)
        find_missing_images(found, problems)
        return found


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(registry, "FORMATS", (*registry.FORMATS, BoxListFormat()))


@pytest.fixture
def box_list(drawn, tmp_path) -> Path:
    """The drawn set with its annotations as box lists."""
    for split in ("train", "val"):
        shutil.copytree(drawn / split, tmp_path / "mine" / split)
        document = json.loads((drawn / f"annotations/instances_{split}.json").read_text())
        files = {image["id"]: image["file_name"] for image in document["images"]}
        names = {category["id"]: category["name"] for category in document["categories"]}
        lines = []
        for item in document["annotations"]:
            x, y, width, height = item["bbox"]
            image, name = files[item["image_id"]], names[item["category_id"]]
            lines.append(f"{split}/{image},{name},{x},{y},{x + width},{y + height}\n")
        (tmp_path / "mine" / f"{split}.csv").write_text("".join(lines))
    return tmp_path / "mine"


def test_what_is_read_is_what_coco_says(box_list, drawn):
    """But for the order of the classes, which a box list has none of its own."""
    train, val = read_data(load_config(None, [f"data={box_list}"]).data)
    coco, _ = read_data(load_config(None, [f"data={drawn}"]).data)
    assert train.class_names == tuple(sorted(coco.class_names)) == val.class_names
    assert train.category_ids == tuple(range(1, len(train.class_names) + 1))
    boxes, expected = (
        {
            record.image_path.name: sorted(
                (split.class_names[label - 1], *box)
                for label, box in zip(record.labels.tolist(), record.boxes.tolist(), strict=True)
            )
            for record in split.records
            if len(record.boxes)
        }
        for split in (train, coco)
    )
    assert boxes == expected
    assert {record.size for record in train.records} == {(96, 96)}  # of the images: a box list has no sizes
    assert find_layout(box_list).description.startswith(f"Box list data at {box_list}: training ")


def test_check_data_lists_all_problems_and_training_raises_the_first(cli, box_list, tmp_path):
    path = box_list / "train.csv"
    lines = path.read_text().splitlines()
    image, *_ = lines[0].split(",")
    lines[1] = "too,short"
    lines += [f"{image},ring,50,50,50,60", "train/gone.jpg,ring,1,1,9,9", "short"]
    path.write_text("\n".join(lines))
    result = cli("check-data", box_list, "--json", tmp_path / "found.json", "--fix", tmp_path / "fixed")
    assert result.code == 0, result.err
    assert "1 image left out, 4 objects left out" in result.out
    assert cli("check-data", box_list).err.startswith("error: 2 errors in the data")
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    expected = {
        ("object-broken", str(path), "line 2", "line 2 has 2 values where 6 belong"),
        ("object-broken", str(path), f"line {len(lines)}", f"line {len(lines)} has 1 values where 6 belong"),
        (
            "image-missing",
            str(box_list / "train/gone.jpg"),
            "gone.jpg",
            "the image is not there, and is left out",
        ),
        (
            *("box-degenerate", str(path), f"{Path(image).name} object {len(lines) - 2} (ring)"),
            "the box (50, 50, 50, 60) in an image of 96x96 has no area and is left out",
        ),
    }
    assert expected == {
        (row["kind"], row["file"], row["item"], row["text"]) for row in found if row["severity"] != "note"
    }
    with pytest.raises(DataError) as caught:
        read_split([BoxListSource(path)])
    assert str(caught.value) == f"{path}: line 2 has 2 values where 6 belong"
    # The cleaned copy is in COCO's format, and has all that was good.
    assert cli("check-data", tmp_path / "fixed").code == 0
    fixed = read_split(find_layout(tmp_path / "fixed").train)
    assert sum(len(record.boxes) for record in fixed.records) == len(lines) - 4


def test_a_training_of_one_epoch(cli, box_list, tmp_path):
    result = cli("train", f"data={box_list}", f"run.dir={tmp_path / 'runs'}", "train.epochs=1", *TINY)
    assert result.code == 0, result.err
    assert "Box list data at" in result.out and (tmp_path / "runs" / "mine" / "best.pt").is_file()


def test_the_options_of_a_source_are_its_fields(tmp_path):
    adapter = TypeAdapter(source_section(BoxListFormat()))
    node = adapter.validate_python({"kind": "boxes", "file": str(tmp_path / "a.csv")})
    source = source_from_options(**dict(node))
    assert source == BoxListSource(tmp_path / "a.csv")
    assert options_of_source(source) == {"kind": "boxes", "file": str(tmp_path / "a.csv"), "delimiter": ","}
    voc = VocSource(tmp_path, ("train", "val"))
    assert options_of_source(voc) == {"kind": "voc", "root": str(tmp_path), "splits": ["train", "val"]}
    assert source_from_options(kind="voc", root=tmp_path, splits=["train", "val"]) == voc
    for wrong in ({"kind": "boxes"}, {"kind": "boxes", "file": "a", "root": "b"}, {"kind": "coco", "file": "a"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_a_config_with_sources_travels_to_another_process():
    data = load_config(None, ["data.train={kind: voc, root: a, splits: [b]}"]).data
    assert pickle.loads(pickle.dumps(data)) == data


def test_kinds_in_a_message_are_those_of_the_registry():
    with pytest.raises(
        ConfigError, match=r"'data\.train\.0\.kind' in the command line must be coco or voc or .* or csv, as in"
    ):
        load_config(None, ["data.train={images: a, annotations: b}"])


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DataError, match="there is no such file or folder; check the path"):
        require_files([BoxListSource(tmp_path / "a.csv")])


def test_the_first_format_that_recognises_a_folder_has_it(box_list, drawn, tmp_path):
    both = shutil.copytree(drawn, tmp_path / "both")
    shutil.copy(box_list / "train.csv", both / "train.csv")
    assert find_layout(both).description.startswith("COCO data at")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"looked for annotations/instances_train.* \(VOC\),.*, and train\.csv \(box list\)$"
    ):
        find_layout(tmp_path / "empty")


def test_problems_are_collected_or_raised(tmp_path):
    """A block that fails ends with a problem, and reading goes on; in training its error goes through as it is."""
    every, first = Problems(), StrictProblems()
    with every.catch("object-broken", tmp_path, "item 1"):
        raise DataError(f"{tmp_path}: item 1 is broken")
    every.add("image-grey", tmp_path, "is grey")
    assert [(one.kind, one.severity, str(one)) for one in every.found] == [
        ("object-broken", "error", f"{tmp_path}: item 1: item 1 is broken"),
        ("image-grey", "note", f"{tmp_path}: is grey"),
    ]
    with pytest.raises(DataError, match="item 1 is broken"), first.catch("object-broken", tmp_path, "item 1"):
        raise DataError("item 1 is broken")
    first.add("image-grey", tmp_path, "is grey")
    first.add("object-without-image", tmp_path, "is left out", message="object 7 has no image")
    assert first.left_out == ["object 7 has no image"] and first.found == []
    with pytest.raises(DataError, match=r"^a longer sentence$"):
        first.add("object-broken", tmp_path, "is broken", message="a longer sentence")
