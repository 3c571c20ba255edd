"""What every reader must survive at a path: nothing, a folder, a pipe, an empty, locked or foreign file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ssdlite.config.schema import load_config
from ssdlite.data.formats.coco import read_coco
from ssdlite.data.formats.voc import read_voc
from ssdlite.data.images import image_size, read_image
from ssdlite.evaluation.coco import read_coco_results
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.importers.torch_files import read_torch_file
from ssdlite.io import one_line, quoted, read_json, read_text
from ssdlite.training.checkpoint import load_checkpoint

from .conftest import as_nobody, assert_refused
from .samples import SPLIT, make_images, make_voc


def read_voc_file(path: Path, part: Path) -> Any:
    """With `path` in the place of one file of a VOC root."""
    root = make_voc(path.parent / "voc")
    (root / part).unlink()
    (root / part).symlink_to(path)
    return read_voc(root, ["train"])


READERS: dict[str, Callable[[Path], Any]] = {
    "coco": lambda path: read_coco(make_images(path.parent / "images"), path),
    "voc": lambda path: read_voc_file(path, Path("Annotations/a.xml")),
    "list": lambda path: read_voc_file(path, Path("ImageSets/Main/train.txt")),
    "config": load_config,
    "checkpoint": load_checkpoint,
    "torch": lambda path: read_torch_file(path, None),
    "onnx": OnnxPredictor,
    "results": lambda path: read_coco_results(path, SPLIT),
    "image": read_image,
    "size": image_size,
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    return READERS[request.param]


def name_in(path: Path, reader: Callable[[Path], Any]) -> str | Path:
    """What a sentence calls `path`: VOC's files are links to it."""
    return path.parent / "voc" if reader in (READERS["voc"], READERS["list"]) else path


def test_nothing(tmp_path: Path, reader) -> None:
    path = tmp_path / "given"
    assert_refused(lambda: reader(path), name_in(path, reader))


def test_a_folder(tmp_path: Path, reader) -> None:
    path = tmp_path / "given"
    path.mkdir()
    assert_refused(lambda: reader(path), name_in(path, reader))


def test_a_pipe_that_nobody_writes_to(tmp_path: Path, reader) -> None:
    path = tmp_path / "given"
    os.mkfifo(path)
    assert_refused(lambda: reader(path), name_in(path, reader))


def test_a_link_to_itself(tmp_path: Path, reader) -> None:
    path = tmp_path / "given"
    path.symlink_to(path)
    assert_refused(lambda: reader(path), name_in(path, reader))


@pytest.mark.parametrize(
    "content", [b"\xff" * 50, b"PK\x03\x04" + b"\0" * 50, b"\x80\x02.", b"\x89PNG\r\n", b"- [\n"]
)
def test_a_foreign_file(tmp_path: Path, reader, content: bytes) -> None:
    path = tmp_path / "given"
    path.write_bytes(content)
    assert_refused(lambda: reader(path), name_in(path, reader))


def test_an_empty_file(tmp_path: Path, reader) -> None:
    path = tmp_path / "given"
    path.touch()
    if reader is load_config:
        assert reader(path) == load_config()  # all defaults
    else:
        assert_refused(lambda: reader(path), name_in(path, reader))


def test_a_locked_file(tmp_path: Path, reader) -> None:
    path = tmp_path / "given"
    path.touch()
    path.chmod(0)
    make_images(tmp_path / "images")
    make_voc(tmp_path / "voc")
    if reader is READERS["coco"]:
        reader = partial(read_coco, tmp_path / "images")
    if reader in (READERS["voc"], READERS["list"]):
        part = "Annotations/a.xml" if reader is READERS["voc"] else "ImageSets/Main/train.txt"
        (tmp_path / "voc" / part).chmod(0)
        with as_nobody():
            assert_refused(lambda: read_voc(tmp_path / "voc", ["train"]), tmp_path)
        return
    with as_nobody():
        assert_refused(lambda: reader(path), tmp_path)


@pytest.mark.parametrize("name", ["no\0pe", "\ud800", "x" * 300, "x/" * 5000])
@pytest.mark.parametrize("kind", ["config", "checkpoint", "torch", "onnx", "results", "image", "size"])
def test_a_name_that_no_file_can_have(kind: str, name: str) -> None:
    from ssdlite.errors import UserError

    with pytest.raises(UserError):
        READERS[kind](Path(name))


def test_json_that_two_programs_would_read_differently(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": [{"b": 1, "c": {"d": []}}]}))
    assert read_json(path) == {"a": [{"b": 1, "c": {"d": []}}]}
    path.write_text('{"a": [{"b": 1, "b": 1}]}')
    with pytest.raises(ValueError, match="has the key 'b' twice"):
        read_json(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_in_two_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.txt").write_bytes("été 山".encode(encoding))
    assert read_text(tmp_path / "x.txt") == "été 山"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a", "'a'"),
        ("été 山", "'été 山'"),
        ("a\nb\x1b", r"'a\nb\x1b'"),
        ("\ud800", r"'\ud800'"),
        (3, "3"),
        (None, "None"),
        ([1, [2, [3, [4]]]], "[1, [2, [3, [...]]]]"),
        ([], "[]"),
    ],
)
def test_what_a_file_says_is_quoted(value: object, shown: str) -> None:
    assert quoted(value) == shown


def test_quoted_words_are_bounded() -> None:
    assert len(quoted(int("f" * 5000, 16))) < 100  # Python 3.10 prints its ends, later ones refuse to
    assert len(quoted("x" * 10**6)) < 250 and len(quoted(["x" * 1000] * 1000)) < 1000
    assert one_line("a\nb\x00\u2028é\u3000山") == "a b\\x00\\u2028é\u3000山"
    assert len(one_line("x" * 10_000)) < 700
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert quoted(deep) == "[[[[...]]]]"
