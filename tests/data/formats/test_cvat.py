"""CVAT for images: exports of projects, whose images have subsets, and sizes that are none."""

from __future__ import annotations

import pytest

from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.registry import options_of_source, source_from_options
from ssdlite.errors import DataError

from .sets import read_train, rows_of, write, write_images

BOX = '<box label="{}" xtl="15" ytl="10" xbr="45" ybr="30"/>'


def image(name: str, subset: str = "", label: str = "cat", size: str = 'width="60" height="40"') -> str:
    given = f'subset="{subset}" task_id="1" ' if subset else ""
    return f'<image id="0" name="{name}" {given}{size}>{BOX.format(label)}</image>'


def document(*images: str) -> str:
    return f'<?xml version="1.0"?><annotations><version>1.1</version><meta/>{"".join(images)}</annotations>'


def test_subsets_are_splits(tmp_path):
    """As a project is exported: tasks of one subset have a folder, and names may repeat between subsets."""
    write_images(tmp_path / "images", "Train/1.jpg", "Validation/1.jpg", "Test/2.jpg", "default/3.jpg")
    path = write(
        tmp_path / "annotations.xml",
        document(
            image("1.jpg", "Train"),
            image("1.jpg", "Validation", "dog"),
            image("2.jpg", "Test"),
            image("3.jpg", "default"),
        ),
    )
    for place in (tmp_path, path):
        layout = find_layout(place)
        parts = {}
        for name, sources in (("train", layout.train), ("val", layout.val), ("test", layout.test)):
            records = read_split(sources, ["cat", "dog"]).records
            parts[name] = [
                (record.image_path.relative_to(tmp_path / "images").as_posix(), record.labels.tolist())
                for record in records
            ]
        assert parts == {
            "train": [("Train/1.jpg", [1]), ("default/3.jpg", [1])],
            "val": [("Validation/1.jpg", [2])],
            "test": [("Test/2.jpg", [1])],
        }
    assert "training" in layout.description and f"{path} (subset Train)" in layout.description
    source = source_from_options("cvat", file=path, images=tmp_path / "images", subset="Validation")
    assert options_of_source(source)["subset"] == "Validation"
    assert rows_of(read_split([source])) == {"1.jpg": [("dog", [15, 10, 45, 30])]}


@pytest.mark.parametrize("subsets", [("Train", "Train"), ("default", "mine"), ("Test", "Test"), ("Train", "")])
def test_subsets_that_are_no_splits_are_read_together(tmp_path, subsets):
    """One alone, names that are none of a split, and a file in which some images have no subset."""
    write_images(tmp_path, "1.jpg", "2.jpg")
    write(tmp_path / "annotations.xml", document(*map(image, ("1.jpg", "2.jpg"), subsets)))
    layout = find_layout(tmp_path)
    assert not layout.val and len(read_split(layout.train)) == 2


def test_a_subset_that_the_file_has_not_is_refused(tmp_path):
    write_images(tmp_path, "1.jpg")
    path = write(tmp_path / "annotations.xml", document(image("1.jpg", "Train")))
    with pytest.raises(DataError) as caught:
        read_split([source_from_options("cvat", file=path, images=tmp_path, subset="Tain")])
    assert str(caught.value) == f"{path}: has no image of the subset 'Tain'; its subsets are 'Train'"


@pytest.mark.parametrize("side", ["9" * 5000, "0", "-1", "²", "x", "60.5"])
def test_a_size_that_is_none_is_that_of_the_image(tmp_path, side):
    write_images(tmp_path, "1.jpg")
    size = f'width="{side}" height="40"'
    write(tmp_path / "annotations.xml", document(image("1.jpg", size=size)))
    assert [record.size for record in read_train(tmp_path).records] == [(40, 60)]
