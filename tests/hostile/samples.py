"""Small sound inputs of every reader, which the tests spoil."""

from __future__ import annotations

import copy
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from PIL import Image

from ssdlite.export.metadata import (
    ExportMetadata,
    FileForm,
    HeadKind,
    Level,
    NetworkFacts,
    Selection,
    to_properties,
)
from ssdlite.structures import DataSplit, Record

IMAGE_NAMES = ("a.png", "sub/b c.png")

COCO: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.png", "height": 40, "width": 60},
        {"id": "two", "file_name": "sub/b c.png", "height": 40, "width": 60},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 5, 20, 10.5], "area": 99.5, "iscrowd": 0},
        {"id": 2, "image_id": "two", "category_id": 7, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]]},
        {"id": 3, "image_id": 1, "category_id": 7, "segmentation": {"size": [40, 60], "counts": [5, 10, 2385]}},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
}

VOC = (
    "<annotation><filename>a.png</filename><size><width>60</width><height>40</height><depth>3</depth></size>"
    "<object><name>dog</name><difficult>0</difficult>"
    "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object>"
    "<object><name>cat</name><difficult>1</difficult>"
    "<bndbox><xmin>1.5</xmin><ymin>1</ymin><xmax>60</xmax><ymax>40</ymax></bndbox></object></annotation>"
)

CREATE_ML: list[Any] = [
    {
        "image": "a.png",
        "annotations": [
            {"label": "cat", "coordinates": {"x": 30, "y": 20, "width": 30, "height": 20.5}},
            {"label": "dog", "coordinates": {"x": 3.5, "y": 2, "width": 1, "height": 2}},
        ],
    },
    {"imagefilename": "sub/b c.png", "annotation": []},
]

LABELME: dict[str, Any] = {
    "version": "5.4.1",
    "flags": {},
    "shapes": [
        {
            "label": "cat",
            "points": [[15, 10], [45.5, 30]],
            "group_id": None,
            "shape_type": "rectangle",
            "flags": {},
        },
        {"label": "dog", "points": [[1, 2], [9, 2], [9, 9]], "group_id": 1, "shape_type": "polygon"},
        {"label": "dog", "points": [[20, 20], [23, 24]], "group_id": 1, "shape_type": "circle", "difficult": True},
        {"label": "cat", "points": [[5, 5]], "shape_type": "point", "flags": {"difficult": True}},
    ],
    "imagePath": "..\\sub\\b c.png",
    "imageData": None,
    "imageHeight": 40,
    "imageWidth": 60,
}

CONFIG = """\
data: {path: somewhere, class_names: [cat, dog], workers: 0}
model: {dialect: paper, width: 0.5, input_size: [96, 128], freeze: []}
loss:
  kind: multibox
  class_weights: {cat: 2, dog: 1}
  assignment: {kind: iou, iou_threshold: 0.5}
optim: {lr: 0.02, lr_factors: {backbone: 1.0}}
train: {epochs: 3, batch_size: 8, precision: fp32}
eval: {score_threshold: 0.01}
run: {name: small, seed: 1}
"""

RESULTS: list[dict[str, Any]] = [
    {"image_id": 1, "category_id": 3, "bbox": [10, 5, 20, 10.5], "score": 0.75},
    {"image_id": "two", "category_id": 7, "bbox": [1, 1, 8, 8], "score": 0.5},
]

SPLIT = DataSplit(
    [
        Record(
            image_path=Path(name),
            image_id=image_id,
            size=(40, 60),
            boxes=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int64),
            ignore=np.zeros(0, bool),
            crowd=np.zeros(0, bool),
            areas=np.zeros(0, np.float32),
        )
        for name, image_id in zip(IMAGE_NAMES, (1, "two"), strict=True)
    ],
    ("cat", "dog"),
    (3, 7),
)
"""What RESULTS belong to."""


def png(width: int = 60, height: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes with any size in its header."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


def make_images(folder: Path) -> Path:
    """The images of COCO, 60x40."""
    for name in IMAGE_NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png())
    return folder


def make_voc(root: Path, xml: str | bytes = VOC, names: str | bytes = "a\n") -> Path:
    """A VOC root of one image `a` and one list, `train`."""
    for path, content in (
        (root / "Annotations" / "a.xml", xml),
        (root / "ImageSets" / "Main" / "train.txt", names),
        (root / "JPEGImages" / "a.png", png()),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def checkpoint() -> dict[str, Any]:
    """The content of a checkpoint, as `load_checkpoint` reads it; its weights fit no network."""
    return {
        "schema": 1,
        "config": {"model": {"width": 0.5}, "run": {"seed": 1}},
        "classes": ["cat", "dog"],
        "weights": {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)},
        "metrics": {"AP": 0.5},
    }


def properties(head: HeadKind = "decoded") -> dict[str, Any]:
    """The metadata of an exported file, as values in place of JSON."""
    written = to_properties(
        ExportMetadata(("cat", "dog"), {"model": {"width": 0.5}}, "paper", 0.5, {"AP": 0.5}, "1.2.3"),
        FileForm(head),
        NetworkFacts((64, 64), "half_pixel", "softmax", np.zeros((1, 4), np.float32), (Level(1, 1, 1),)),
        Selection(0.01, 0.5, 400, 100),
    )
    return {key: json.loads(value) for key, value in written.items()}


def onnx_model(metadata: dict[str, str], size: int = 64) -> bytes:
    """A network that has the inputs and outputs of head `decoded`, for two classes, and this metadata."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2], keepdims=0),
            helper.make_node("Slice", ["mean", "0", "4", "2"], ["boxes"]),
            helper.make_node("Slice", ["mean", "0", "2", "2"], ["scores"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, size, size])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, columns])
            for name, columns in (("boxes", 4), ("scores", 2))
        ],
        [helper.make_tensor(str(number), TensorProto.INT64, [1], [number]) for number in (0, 2, 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested dicts and lists with the item at `path` replaced."""
    document = copy.deepcopy(document)
    node = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return document
