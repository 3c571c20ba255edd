"""Errors are what training refuses, warnings what it leaves out or cuts: never the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssdlite.data.formats.layout import find_layout
from ssdlite.data.formats.problems import KINDS
from ssdlite.data.formats.voc import VocSource, read_voc
from ssdlite.errors import DataError
from ssdlite.validate.check import quick_check

from .cases import kinds, write_noise

SIZE = "<size><width>60</width><height>40</height></size>"


def thing(name="cat", box=(5, 5, 20, 20), extra=""):
    tags = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{extra}<bndbox>{tags}</bndbox></object>"


GOOD = "".join(thing(box=(5, 5, 20, 20 + n)) for n in range(10))


def annotation(objects="", size=SIZE, head=""):
    return f"{head}<annotation>{size}{GOOD}{objects}</annotation>"


def write_voc(root: Path, files: dict[str, str], split: str = "train", lines: str | None = None) -> Path:
    for seed, (stem, xml) in enumerate(files.items()):
        write_noise(root / "JPEGImages" / f"{stem}.png", seed)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{stem}.xml").write_text(xml)
    names = root / "ImageSets" / "Main" / f"{split}.txt"
    names.parent.mkdir(parents=True, exist_ok=True)
    names.write_text("".join(f"{stem}\n" for stem in files) if lines is None else lines)
    return root


def problems_of(root, files, **options):
    write_voc(root, files, **options)
    return quick_check([VocSource(root, ("train",))], [])


ERRORS = {
    "no XML": ("<annotation>", "annotations-unreadable"),
    "a DOCTYPE": (annotation(head='<!DOCTYPE a [<!ENTITY b "c">]>'), "annotations-unreadable"),
    "a size of text": (annotation(size="<size><width>x</width><height>4</height></size>"), "image-size-broken"),
    "no name": (annotation("<object><bndbox/></object>"), "object-broken"),
    "no box": (annotation("<object><name>cat</name></object>"), "object-broken"),
    "text as a corner": (annotation(thing(box=(1, 2, "x", 4))), "object-broken"),
}
WARNINGS = {
    "a point": (thing(box=(5, 5, 5, 5)), "box-degenerate"),
    "not a number": (thing(box=("nan", 5, 9, 9)), "box-degenerate"),
    "inverted": (thing(box=(20, 5, 5, 20)), "box-inverted"),
    "outside": (thing(box=(61, 5, 70, 20)), "box-outside"),
    "over the border": (thing(box=(50, 5, 62, 20)), "box-clipped"),
}


@pytest.mark.parametrize(("xml", "kind"), ERRORS.values(), ids=ERRORS)
def test_errors_are_what_the_reader_refuses(tmp_path, xml, kind):
    found = problems_of(tmp_path, {"a": annotation(), "b": xml})
    assert kinds(found) == [kind] and KINDS[kind] == "error"
    assert found[0].file == tmp_path / "Annotations/b.xml" and found[0].item.startswith("b")
    with pytest.raises(DataError):
        read_voc(tmp_path, ["train"])


@pytest.mark.parametrize(("objects", "kind"), WARNINGS.values(), ids=WARNINGS)
def test_warnings_are_what_the_reader_leaves_out_or_cuts(tmp_path, objects, kind):
    found = problems_of(tmp_path, {"a": annotation(objects)})
    assert kinds(found) == [kind] and KINDS[kind] == "warning"
    assert found[0].item == "a object 11 (cat)"
    (record,) = read_voc(tmp_path, ["train"]).records
    assert len(record.boxes) == (11 if kind == "box-clipped" else 10)


@pytest.mark.parametrize("box", [(7, 3, 7, 20), (1, 1, 60, 40), (0, 0, 61, 41), (2.5, 3, 10.5, 8)])
def test_boxes_that_are_fine(tmp_path, box):
    """One pixel wide, the whole image, counted from 0, with fractions."""
    assert kinds(problems_of(tmp_path, {"a": annotation(thing(box=box))})) == []


def test_lists(tmp_path):
    assert kinds(problems_of(tmp_path, {"a": annotation()}, lines="a\na 1\n")) == ["image-listed-twice"]
    assert len(read_voc(tmp_path, ["train"])) == 1
    for lines, expected in {"": ["list-unreadable", "no-images"], "a\n../a\n": ["list-unreadable"]}.items():
        assert kinds(problems_of(tmp_path, {"a": annotation()}, lines=lines)) == expected
        with pytest.raises(DataError):
            read_voc(tmp_path, ["train"])
    assert kinds(problems_of(tmp_path, {"a": annotation()}, lines="a\nb\n")) == ["annotation-missing"]
    assert [record.image_id for record in read_voc(tmp_path, ["train"]).records] == ["a"]
    found = problems_of(tmp_path, {"a": annotation()}, lines="a\nb\nc\n")
    assert kinds(found) == ["annotation-missing", "annotation-missing", "images-unusable"]
    with pytest.raises(DataError, match=r"b\.xml: the annotation is not there"):
        read_voc(tmp_path, ["train"])


def test_what_a_mac_leaves_beside_each_file_is_no_data(tmp_path):
    """Above all no second list, which would hide the lone one."""
    root = write_voc(tmp_path, {"a": annotation()}, split="default")
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    layout = find_layout(root)
    assert layout.train == [VocSource(root, ("default",))]
    assert kinds(quick_check(layout.train, [])) == []


def test_images(tmp_path):
    files = {"a": annotation(), "b": annotation(), "c": annotation(size="")}
    write_voc(tmp_path, files)
    (tmp_path / "JPEGImages/b.png").unlink()
    write_noise(tmp_path / "JPEGImages/c.bmp", 5)
    found = quick_check([VocSource(tmp_path, ("train",))], [])
    expected = ["image-ambiguous", "image-missing", "image-without-size", "no-validation"]
    assert kinds(found, notes=True) == expected
    assert [record.image_id for record in read_voc(tmp_path, ["train"]).records] == ["a", "c"]


def test_a_flag_that_is_neither_0_nor_1_is_taken_as_0(tmp_path, caplog):
    flags = ["Unspecified", "", "False", "0.0597", "True", "1"]
    objects = "".join(
        thing(box=(9, 9, 20, 20 + n), extra=f"<difficult>{flag}</difficult>") for n, flag in enumerate(flags)
    )
    found = problems_of(tmp_path, {"a": annotation(objects)})
    assert kinds(found) == ["flag-unclear"]
    assert str(found[0]).endswith(
        "a object 11 (cat): difficult is 'Unspecified', which is neither 0 nor 1; it is taken as 0"
    )
    (record,) = read_voc(tmp_path, ["train"]).records
    assert record.ignore[10:].tolist() == [False, False, False, True, True, True]
    assert "took 1 object as not difficult" in caplog.text


def test_a_missing_folder_of_images_is_one_problem(tmp_path):
    write_voc(tmp_path, {"a": annotation()})
    (tmp_path / "JPEGImages/a.png").unlink()
    (tmp_path / "JPEGImages").rmdir()
    found = quick_check([VocSource(tmp_path, ("train",))], [])
    assert kinds(found) == ["image-folder-missing", "no-images"]


def test_an_empty_folder_of_images_is_one_problem(tmp_path):
    """Also beside another source, whose images make the split usable; training names the first that is missing."""
    full = write_voc(tmp_path / "full", {"a": annotation()})
    empty = write_voc(tmp_path / "empty", {"b": annotation(), "c": annotation()})
    for path in (empty / "JPEGImages").iterdir():
        path.unlink()
    sources = [VocSource(full, ("train",)), VocSource(empty, ("train",))]
    for train in (sources[1:], sources):
        (problem,) = [one for one in quick_check(train, []) if one.severity == "error"]
        assert problem.kind == "no-images" and problem.item == f"{empty} (train)"
    with pytest.raises(DataError, match=r"b\.xml: there is no image 'b'"):
        read_voc(empty, ["train"])


def test_real_bccd_has_two_points(real_data):
    layout = find_layout(real_data / "bccd")
    found = quick_check(layout.train, layout.val)
    assert [problem.item for problem in found if problem.kind == "box-degenerate"] == [
        "BloodImage_00338 object 13 (RBC)",
        "BloodImage_00343 object 4 (RBC)",
    ]
