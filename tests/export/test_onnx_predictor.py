import ast
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import ssdlite.export.onnxruntime
from ssdlite.errors import CheckpointError
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.models.predictor import TorchPredictor
from ssdlite.structures import Batch

from .conftest import DECODER, HEADS, METADATA, SIZE, assert_same_detections


def make_batch(images, original_sizes):
    count = len(images)
    return Batch(
        images=images,
        boxes=torch.zeros(count, 0, 4),
        labels=torch.zeros(count, 0, dtype=torch.int64),
        ignore=torch.zeros(count, 0, dtype=torch.bool),
        image_ids=list(range(count)),
        original_sizes=original_sizes,
        indices=list(range(count)),
    )


@pytest.mark.parametrize("head", HEADS)
def test_detections_are_those_of_pytorch_in_original_pixels(files, detector, images, head):
    sizes = [(96, 128), (960, 64), (50, 333), (1, 1), (2000, 3000), (96, 128)]
    batch = make_batch(torch.from_numpy(images), sizes)
    expected = TorchPredictor(detector, DECODER, torch.device("cpu"))(batch)
    found = OnnxPredictor(files[head], threads=1)(batch)
    for ours, theirs in zip(found, expected, strict=True):
        assert [part.dtype for part in ours] == [np.float32, np.float32, np.int64]
        assert_same_detections(ours, theirs, pixels=1)  # images are enlarged up to 23 times


@pytest.mark.parametrize("head", HEADS)
def test_no_images_and_arrays_instead_of_tensors(files, images, head):
    predictor = OnnxPredictor(files[head])
    assert predictor(make_batch(images[:0], [])) == []
    (found,) = predictor(make_batch(images[:1], [SIZE]))
    (same,) = predictor(make_batch(torch.from_numpy(images[:1]), [SIZE]))
    np.testing.assert_array_equal(found.boxes, same.boxes)


def test_what_a_file_says_about_itself(files):
    predictor = OnnxPredictor(files["nms"])
    assert predictor.class_names == METADATA.class_names and predictor.input_size == SIZE
    assert predictor.config == METADATA.config and predictor.metadata.document["version"] == "1.2.3"
    assert predictor.batch_size is None


@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_broken_files_are_refused(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken\.onnx cannot be loaded"):
        OnnxPredictor(path)


def test_missing_and_foreign_files_are_refused(files, tmp_path):
    with pytest.raises(CheckpointError, match=r"no model file .*gone\.onnx"):
        OnnxPredictor(tmp_path / "gone.onnx")
    model = onnx.load(files["raw"])
    path = tmp_path / "foreign.onnx"
    for change, sentence in (
        (lambda text: text.replace('"schema": 2', '"schema": 7'), "schema 7"),
        (
            lambda text: text.replace('"dtype": "float32"', '"dtype": "uint8"'),
            "head 'raw', an input of 128x96 pixels of uint8",
        ),
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: "{}", "damaged"),
    ):
        altered = onnx.ModelProto()
        altered.CopyFrom(model)
        for entry in altered.metadata_props:
            if entry.key == "ssdlite":
                entry.value = change(entry.value)
        onnx.save(altered, path)
        with pytest.raises(CheckpointError, match=rf"foreign\.onnx .*{sentence}"):
            OnnxPredictor(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match="was not exported by ssdlite"):
        OnnxPredictor(path)


@pytest.mark.parametrize("head", ["decoded", "raw", "raw-levels"])
@pytest.mark.parametrize("names", [["one", "two"], ["one", "two", "three", "four"]])
def test_a_file_of_other_classes_than_it_names_is_refused(files, tmp_path, head, names):
    change_names(files[head], tmp_path / "other.onnx", names)
    with pytest.raises(CheckpointError, match=rf"head '{head}', an input of .* and {len(names)} classes"):
        OnnxPredictor(tmp_path / "other.onnx")


def test_a_detection_of_no_class_is_refused(files, images, tmp_path):
    """The outputs of head nms have no axis of classes."""
    change_names(files["nms"], tmp_path / "other.onnx", ["one"])
    with pytest.raises(CheckpointError, match="detects a class beyond the 1 that its metadata name"):
        OnnxPredictor(tmp_path / "other.onnx")(make_batch(images, [SIZE] * len(images)))


@pytest.mark.parametrize("names", [["a", "a", "b"], ["a", " ", "b"], ["a\nb", "c", "d"], ["a", "b", "\ud800"]])
def test_names_that_cannot_be_told_apart_or_printed_are_refused(files, tmp_path, names):
    change_names(files["nms"], tmp_path / "other.onnx", names)
    with pytest.raises(CheckpointError, match="damaged metadata"):
        OnnxPredictor(tmp_path / "other.onnx")


def change_names(path, target, names):
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == "names":
            entry.value = json.dumps(names)
    onnx.save(model, target)


def as_schema_1(path, target):
    """A file of schema 1, which has no input form and no precision, and holds data set paths."""
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == "ssdlite":
            document = json.loads(entry.value)
            document["schema"] = 1
            del document["precision"]
            for name in ("suppression", "candidates", "levels"):
                document["output"].pop(name, None)
            document["config"] = {"data": {"path": "/home/someone/data"}}
            entry.value = json.dumps(document)
    onnx.save(model, target)


@pytest.mark.parametrize("head", ["nms", "decoded", "raw"])
def test_files_of_schema_1_are_read(files, images, tmp_path, head):
    as_schema_1(files[head], tmp_path / "old.onnx")
    old, new = OnnxPredictor(tmp_path / "old.onnx"), OnnxPredictor(files[head])
    assert (old.metadata.precision, old.metadata.input_form) == ("fp32", "float-nchw")
    assert old.config == {"data": {"path": "/home/someone/data"}} and old.metadata.levels == ()
    for ours, theirs in zip(old.select(old.run(images)), new.select(new.run(images)), strict=True):
        assert_same_detections(ours, theirs)


def test_the_oldest_files_do_not_say_how_images_are_resized(files, tmp_path):
    model = onnx.load(files["raw"])
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"resize_alignment": "half_pixel", ', "")
    onnx.save(model, tmp_path / "old.onnx")
    metadata = OnnxPredictor(tmp_path / "old.onnx").metadata
    assert "resize_alignment" not in metadata.document["input"] and metadata.resize_alignment == "half_pixel"


def test_it_needs_neither_torch_nor_the_network():
    folder = Path(ssdlite.export.onnxruntime.__file__).parent
    allowed = {"numpy", "onnxruntime", "ssdlite.errors", "ssdlite.structures", "ssdlite.boxes_np", "ssdlite.io"}
    for name in ("onnxruntime", "predictor", "metadata", "runtime"):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                assert not module.startswith(("torch", "ssdlite.model", "ssdlite.data"))
                if module.startswith(("numpy", "onnx", "ssdlite")) and "ssdlite.export" not in module:
                    assert module in allowed
