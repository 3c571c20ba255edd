"""Sound files with a few things changed at random: a reader gives a right result or a UserError, and nothing else.

SSDLITE_FUZZ_EXAMPLES=10000 tries as many for each reader, other ones each time; without it a fixed 200.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import shutil
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ssdlite.config.schema import config_from_dict, load_config, parse_options
from ssdlite.data.formats.base import Source
from ssdlite.data.formats.coco import CocoSource, read_coco
from ssdlite.data.formats.create_ml import CreateMlSource
from ssdlite.data.formats.labelme import LabelMeSource
from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.problems import Problems, StrictProblems
from ssdlite.data.formats.registry import format_of
from ssdlite.data.formats.voc import VocSource, read_voc
from ssdlite.data.images import image_size, read_image
from ssdlite.errors import DataError, UserError
from ssdlite.evaluation.coco import read_coco_results
from ssdlite.export.metadata import from_properties
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.importers.torch_files import read_torch_file
from ssdlite.structures import DataSplit
from ssdlite.training.checkpoint import load_checkpoint

from .conftest import assert_sentence
from .samples import (
    COCO,
    CONFIG,
    CREATE_ML,
    LABELME,
    RESULTS,
    SPLIT,
    VOC,
    checkpoint,
    make_images,
    make_voc,
    onnx_model,
    properties,
)

EXAMPLES = os.environ.get("SSDLITE_FUZZ_EXAMPLES")

fuzz = settings(
    max_examples=int(EXAMPLES or 200),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

TEXT = st.text(st.characters(exclude_categories=()), max_size=12)  # half pairs and control characters too
NASTY = st.sampled_from(
    [
        *(
            "",
            " ",
            "1",
            "0.5",
            "-1",
            "nan",
            "1e400",
            "1_0",
            "true",
            "../x",
            "/etc/x",
            "a\0",
            "\ud800",
            "\x1b[31m",
            "x" * 999,
        ),
        *(0, 1, -1, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e39, 1e308, 5e-324),
        *(float("nan"), float("inf"), -float("inf"), True, False, None),
        *(
            [],
            {},
            [[]],
            [None],
            {"": None},
            [1, 2, 3, 4],
            [0, 0, 0, 0],
            {"kind": "coco"},
            {"size": [0, 0], "counts": "o"},
        ),
    ]
)
JUNK = NASTY | TEXT | st.integers() | st.floats() | st.recursive(NASTY, st.lists, max_leaves=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("fuzz")
    make_images(made / "images")
    make_voc(made / "voc")
    logger = logging.getLogger("ssdlite")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # ten thousand warnings of boxes
    yield made
    logger.setLevel(before)


def survives(read: Callable[[], Any], *words: str | Path) -> Any:
    """What `read` gives, or None where it refuses in a sentence that says `words`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's on old pickles, Pillow's on large images
        try:
            return read()
        except UserError as error:
            assert_sentence(error, *words)
            return None


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all items in nested dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


@st.composite
def changed_documents(draw: st.DrawFn, document: Any, junk: st.SearchStrategy[Any] = JUNK) -> Any:
    """`document` with one to three of its items replaced, taken away, doubled, or made another of its items."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        found = places(document)
        if not found:
            return document
        *parents, key = draw(st.sampled_from(found))
        node = document
        for parent in parents:
            node = node[parent]
        match draw(st.sampled_from(["junk", "junk", "delete", "double", "move"])):
            case "junk":
                node[key] = copy.deepcopy(draw(junk))  # a strategy gives the same list each time
            case "delete":
                del node[key]
            case "double" if isinstance(node, list):
                node.append(copy.deepcopy(node[key]))
            case _:
                other: Any = document
                for step in draw(st.sampled_from(found)):
                    other = other[step]
                node[key] = copy.deepcopy(other)
    return document


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with bytes flipped, cut out, doubled or put in, or without its end."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(1, 40)))
        match draw(st.sampled_from(["flip", "flip", "cut", "double", "insert", "end"])):
            case "flip":
                data = data[:start] + bytes([draw(st.integers(0, 255))]) + data[start + 1 :]
            case "cut":
                data = data[:start] + data[stop:]
            case "double":
                data = data[:stop] + data[start:]
            case "insert":
                data = data[:start] + draw(st.binary(max_size=8)) + data[start:]
            case _:
                data = data[:start]
    return data


def as_json(document: Any) -> bytes:
    return json.dumps(document).encode()


def check_split(split: DataSplit | None) -> None:
    """That what was read keeps the promises of `Record`."""
    if split is None:
        return
    assert len(split.class_names) == len(split.category_ids) == len(set(split.category_ids))
    for record in split.records:
        count, (height, width) = len(record.boxes), record.size
        assert height > 0 and width > 0 and record.boxes.shape == (count, 4)
        assert all(len(part) == count for part in (record.labels, record.ignore, record.crowd, record.areas))
        assert np.all((record.boxes >= 0) & (record.boxes <= [width, height, width, height]))
        assert np.all(record.boxes[:, 2:] > record.boxes[:, :2])
        assert np.all((record.labels >= 1) & (record.labels <= len(split.class_names)))
        assert np.all(np.isfinite(record.areas) & (record.areas >= 0))
        assert isinstance(record.image_id, int | str) and not isinstance(record.image_id, bool)


def check_reader(source: Source) -> None:
    """Training raises the first of the errors that a check lists, and nothing where it lists none."""
    problems = Problems()
    format_of(source).read(source, problems)
    errors = [problem for problem in problems.found if problem.severity == "error"]
    sentences = [problem.message or f"{problem.file}: {problem.text}" for problem in errors]
    try:
        format_of(source).read(source, StrictProblems())
    except DataError as error:
        assert str(error) == sentences[0]
    else:
        assert sentences == []


@fuzz
@given(data=changed_documents(COCO).map(as_json) | changed_bytes(as_json(COCO)))
def test_coco(folder: Path, data: bytes) -> None:
    path = folder / "instances_train.json"
    path.write_bytes(data)
    check_split(survives(lambda: read_coco(folder / "images", path), folder))
    check_reader(CocoSource(folder / "images", path))


@fuzz
@given(data=changed_documents(CREATE_ML).map(as_json) | changed_bytes(as_json(CREATE_ML)))
def test_create_ml(folder: Path, data: bytes) -> None:
    path = folder / "boxes.createml.json"
    path.write_bytes(data)
    source = CreateMlSource(path, folder / "images")
    check_split(survives(lambda: read_split([source]), folder))
    check_reader(source)


@fuzz
@given(
    data=changed_documents(LABELME).map(as_json) | changed_bytes(as_json(LABELME)),
    name=st.sampled_from(["a.json", "other.json"]),
)
def test_labelme(folder: Path, data: bytes, name: str) -> None:
    path = folder / name
    path.write_bytes(data)
    source = LabelMeSource(folder / "images", path)
    check_split(survives(lambda: read_split([source]), folder))
    check_reader(source)


@fuzz
@given(
    data=st.sampled_from([as_json(CREATE_ML), as_json(LABELME), as_json(COCO)]).flatmap(changed_bytes)
    | changed_documents([CREATE_ML, LABELME]).map(as_json)
)
def test_finding_a_format(folder: Path, data: bytes) -> None:
    """Looking at a folder reads nothing but the edges of files, and names the folder where it knows no format."""
    root = folder / "unknown"
    root.mkdir(exist_ok=True)
    shutil.copy(folder / "images" / "a.png", root)
    for name in ("a.json", "b.createml.json"):
        (root / name).write_bytes(data)
    survives(lambda: find_layout(root), root)
    survives(lambda: find_layout(root / "a.json"), root)


@st.composite
def changed_xml(draw: st.DrawFn) -> bytes:
    root = ET.fromstring(VOC)
    for _ in range(draw(st.integers(1, 3))):
        parents = [element for element in root.iter() if len(element)]
        if not parents:
            break
        parent = draw(st.sampled_from(parents))
        child = draw(st.sampled_from(list(parent)))
        match draw(st.sampled_from(["text", "text", "tag", "delete", "double", "move"])):
            case "text":
                child.text = draw(st.one_of(NASTY, TEXT, st.floats(), st.integers()).map(str))
            case "tag":
                child.tag = draw(st.sampled_from(["object", "name", "bndbox", "xmin", "size", "x"]))
            case "delete":
                parent.remove(child)
            case "double":
                parent.append(copy.deepcopy(child))
            case _:
                draw(st.sampled_from(parents)).append(copy.deepcopy(child))
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-16", "latin-1"]))
    return ET.tostring(root, "unicode").encode(
        encoding, "xmlcharrefreplace" if encoding == "latin-1" else "replace"
    )


@fuzz
@given(xml=changed_xml() | changed_bytes(VOC.encode()), names=st.just(b"a\n") | changed_bytes(b"a 1\na -1\n"))
def test_voc(folder: Path, xml: bytes, names: bytes) -> None:
    root = folder / "voc"
    (root / "Annotations" / "a.xml").write_bytes(xml)
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(names)
    check_split(survives(lambda: read_voc(root, ["train"]), root))
    check_reader(VocSource(root, ("train",)))


OPTIONS: dict[str, Any] = yaml.safe_load(CONFIG)
TOKENS = st.sampled_from(
    [
        *(
            "&a ",
            "*a",
            "!!int ",
            "!!python/object:os.system ",
            "<<: ",
            "? ",
            "- ",
            "{",
            "[",
            "]",
            "}",
            "'",
            '"',
            "\t",
        ),
        *(
            ": ",
            "|",
            "%",
            "#",
            "0x",
            "0x_",
            "2023-13-45",
            "12:30",
            "1e400",
            ".nan",
            "~",
            "\n",
            "\n  ",
            "---",
            "...",
        ),
    ]
)
NAMES = st.sampled_from([".".join(map(str, place)) for place in places(OPTIONS)]) | TEXT


@st.composite
def changed_yaml(draw: st.DrawFn) -> bytes:
    text = CONFIG
    for token in draw(st.lists(TOKENS, min_size=1, max_size=4)):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + token + text[place + draw(st.integers(0, 2)) :]
    return text.encode()


def as_yaml(document: Any) -> bytes:
    return yaml.safe_dump(document, sort_keys=False).encode("utf-8", "surrogatepass")


@fuzz
@given(
    data=changed_documents(OPTIONS, JUNK.filter(lambda value: value != 10**400)).map(as_yaml)
    | changed_yaml()
    | changed_bytes(CONFIG.encode())
)
def test_config_file(folder: Path, data: bytes) -> None:
    path = folder / "small.yaml"
    path.write_bytes(data)
    config = survives(lambda: load_config(path))
    if config is not None:  # what is shown can be read again
        assert config_from_dict(yaml.safe_load(config.to_yaml())) == config


@fuzz
@given(words=st.lists(st.tuples(NAMES, JUNK.map(str) | TOKENS | TEXT).map("=".join), min_size=1, max_size=3))
def test_overrides(words: list[str]) -> None:
    survives(lambda: config_from_dict(OPTIONS, parse_options(words)))


def saved(content: Any, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


TENSORS = st.sampled_from(
    [torch.zeros(0), torch.zeros(2, 3), torch.ones(1).expand(10**9), torch.zeros(1, device="meta")]
)
SAVED = st.booleans().flatmap(
    lambda zipped: (
        changed_documents(checkpoint(), JUNK | TENSORS).map(lambda content: saved(content, zipped))
        | changed_bytes(saved(checkpoint(), zipped))
    )
)


@fuzz
@given(data=SAVED)
def test_checkpoint(folder: Path, data: bytes) -> None:
    path = folder / "best.pt"
    path.write_bytes(data)
    content = survives(lambda: load_checkpoint(path), path)
    if content is not None and "config" in content:
        survives(lambda: config_from_dict(content["config"]))


FOREIGN = {
    "state_dict": {"bbox_head.a": torch.zeros(2)},
    "meta": {"CLASSES": ["cat"], "dataset_meta": {"classes": ["cat"]}},
}


@fuzz
@given(data=changed_documents(FOREIGN, JUNK | TENSORS).map(saved) | changed_bytes(saved(FOREIGN, zipped=False)))
def test_foreign_checkpoint(folder: Path, data: bytes) -> None:
    path = folder / "theirs.pth"
    path.write_bytes(data)
    assert survives(lambda: read_torch_file(path, None), path) is None  # no change makes it a whole network


@fuzz
@given(values=changed_documents(properties()) | changed_documents(properties("raw-levels")))
def test_metadata(values: dict[str, Any]) -> None:
    card = survives(
        lambda: from_properties({key: json.dumps(value) for key, value in values.items()}, "x.onnx"), "x.onnx"
    )
    if card is not None:
        assert (
            card.head in ("nms", "decoded", "raw-levels")
            and min(card.input_size) > 0
            and all(isinstance(name, str) for name in card.class_names)
        )


@fuzz
@given(data=changed_bytes(onnx_model({key: json.dumps(value) for key, value in properties().items()})))
def test_onnx_file(folder: Path, data: bytes) -> None:
    path = folder / "best.onnx"
    path.write_bytes(data)
    survives(lambda: OnnxPredictor(path, threads=1), path)


@fuzz
@given(data=changed_documents(RESULTS).map(as_json) | changed_bytes(as_json(RESULTS)))
def test_results(folder: Path, data: bytes) -> None:
    path = folder / "results.json"
    path.write_bytes(data)
    for found in survives(lambda: read_coco_results(path, SPLIT), path) or ():
        assert np.all(np.isfinite(found.boxes)) and np.all(np.isfinite(found.scores))
        assert np.all(np.diff(found.scores) <= 0) and np.all(np.isin(found.labels, [1, 2]))


def encoded(file_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(buffer, file_format)
    return buffer.getvalue()


@fuzz
@given(
    data=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]).flatmap(
        lambda name: changed_bytes(encoded(name))
    )
)
def test_image(folder: Path, data: bytes) -> None:
    path = folder / "a.img"
    path.write_bytes(data)
    image = survives(lambda: read_image(path), path)
    assert image is None or (image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size)
    size = survives(lambda: image_size(path), path)
    assert size is None or min(size) >= 0
