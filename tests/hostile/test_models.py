"""Broken and malicious checkpoints, exported files, result files and images."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from ssdlite.data.images import image_size, read_image
from ssdlite.evaluation.coco import read_coco_results
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.importers.torch_files import read_torch_file
from ssdlite.training.checkpoint import load_checkpoint, save_checkpoint

from .conftest import assert_refused
from .samples import RESULTS, SPLIT, changed, checkpoint, onnx_model, png_that_claims, properties

LOADERS = [load_checkpoint, lambda path: read_torch_file(path, None)]


class Marker:
    """A pickle of this makes a folder when it is read carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class Evaluated(Marker):
    """The same by words of Python."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('os').mkdir({str(self.path)!r})",)


class Ordered(Marker):
    """The same hidden in the state of a type that checkpoints may hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, ((("a", Marker(self.path)),),)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("kind", [Marker, Evaluated, Ordered])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "protocol 0", "protocol 5"])
def test_code_in_a_checkpoint_never_runs(tmp_path: Path, load, kind: type[Marker], form: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "best.pt"
    content = {**checkpoint(), "metrics": {"AP": kind(marker)}}
    match form:
        case "zip" | "legacy":
            torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        case "pickle":
            path.write_bytes(pickle.dumps({"schema": 1, "metrics": kind(marker)}))
        case _:
            path.write_bytes(pickle.dumps({"schema": 1, "metrics": kind(marker)}, protocol=int(form[-1])))
    assert_refused(lambda: load(path), path)
    assert not marker.exists()
    (torch.load(path, weights_only=False) if form in ("zip", "legacy") else pickle.loads(path.read_bytes()))
    assert marker.exists(), "the trap was none"


CHECKPOINTS: list[tuple[tuple[Any, ...], Any, str]] = [
    (("schema",), torch.zeros(3), "is not a checkpoint of ssdlite"),
    (("schema",), True, "is not a checkpoint of ssdlite"),
    (("schema",), "1", "is not a checkpoint of ssdlite"),
    (("schema",), [1], "is not a checkpoint of ssdlite"),
    (("schema",), 10**5000, "checkpoint"),
    (("config",), None, "its config"),
    (("config",), "text", "its config"),
    (("config",), [1, 2], "its config"),
    (("config",), {1: 2}, "its config"),
    (("classes",), "cat", "its classes"),
    (("classes",), 3, "its classes"),
    (("classes",), ["cat", 5], "its classes"),
    (("classes",), {"cat": 1}, "its classes"),
    (("weights",), torch.zeros(3), "its weights"),
    (("weights",), {"a": 1.0}, "its weights"),
    (("weights",), {1: torch.zeros(1)}, "its weights"),
    (("metrics",), 5, "its metrics"),
    (("training",), [1], "its training"),
]


@pytest.mark.parametrize(("where", "value", "sentence"), CHECKPOINTS, ids=range(len(CHECKPOINTS)))
def test_a_wrong_value_in_a_checkpoint(tmp_path: Path, where, value: Any, sentence: str) -> None:
    torch.save(changed(checkpoint(), where, value), tmp_path / "best.pt")
    assert_refused(lambda: load_checkpoint(tmp_path / "best.pt"), tmp_path / "best.pt", sentence)


@pytest.mark.parametrize("content", [torch.zeros(3), [1], "text", 5, None, {}, {"state_dict": {}}, (1, 2)])
def test_what_torch_saved_and_is_no_checkpoint(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "best.pt")
    for load in LOADERS:
        assert_refused(lambda load=load: load(tmp_path / "best.pt"), tmp_path / "best.pt")


@pytest.mark.parametrize("load", LOADERS)
def test_a_checkpoint_that_unpacks_to_gigabytes(tmp_path: Path, load) -> None:
    """Zeros in a zip file, a thousand times as large as the file; 100 MB here, but the file sets no bound."""
    path = tmp_path / "best.pt"
    save_checkpoint(path, checkpoint())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("best/data/99", bytes(10**8))
    assert path.stat().st_size < 10**6
    assert_refused(lambda: load(path), path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**12),
        torch.zeros(1).expand(10**6, 10**6),
        torch.zeros(3, device="meta"),
        torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (10**15,)),
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 10**15)),
    ],
    ids=["expanded", "expanded twice", "meta", "coo", "csr"],
)
def test_tensors_that_claim_more_than_the_file_holds(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"base_net.0.0.weight": tensor}, tmp_path / "theirs.pth")
    assert_refused(lambda: read_torch_file(tmp_path / "theirs.pth", None), tmp_path / "theirs.pth")


def test_a_sound_checkpoint_is_read(tmp_path: Path) -> None:
    """What the refusals above start from."""
    for zipped in (True, False):
        torch.save(checkpoint(), tmp_path / "best.pt", _use_new_zipfile_serialization=zipped)
        loaded = load_checkpoint(tmp_path / "best.pt")
        assert loaded["weights"]["a.weight"].tolist() == [[0, 1, 2], [3, 4, 5]] and loaded["classes"] == [
            "cat",
            "dog",
        ]


METADATA: list[tuple[tuple[Any, ...], Any]] = [
    (("names",), {"0": "cat", "1": "dog"}),
    (("names",), "cat"),
    (("names",), []),
    (("names",), [1, 2]),
    (("ssdlite",), []),
    (("ssdlite",), "text"),
    (("ssdlite",), None),
    (("ssdlite", "schema"), "1"),
    (("ssdlite", "schema"), 3),
    (("ssdlite", "schema"), 0),
    (("ssdlite", "precision"), "int4"),
    (("ssdlite", "precision"), ["fp32"]),
    (("ssdlite", "input", "layout"), "CHWN"),
    (("ssdlite", "input", "dtype"), ["uint8"]),
    (("ssdlite", "input", "dtype"), "uint8"),  # which the network is not
    (("ssdlite", "output", "candidates"), 0),
    (("ssdlite", "output", "candidates"), "512"),
    (("ssdlite", "head"), "box"),
    (("ssdlite", "head"), ["nms"]),
    (("ssdlite", "head"), None),
    (("ssdlite", "head"), "raw"),  # without priors
    (("ssdlite", "head"), "raw-levels"),
    (("ssdlite", "head"), "nms"),  # which the network is not
    (("ssdlite", "input"), []),
    (("ssdlite", "input", "size"), "ab"),
    (("ssdlite", "input", "size"), [64]),
    (("ssdlite", "input", "size"), [64, 64, 3]),
    (("ssdlite", "input", "size"), [64, -64]),
    (("ssdlite", "input", "size"), [64, 64.5]),
    (("ssdlite", "input", "size"), [64, True]),
    (("ssdlite", "input", "size"), [64, 10**30]),
    (("ssdlite", "input", "size"), [64, 128]),  # which the network is not
    (("ssdlite", "input", "resize_alignment"), "diagonal"),
    (("ssdlite", "input", "resize_alignment"), ["half_pixel"]),
    (("ssdlite", "output"), 5),
    (("ssdlite", "output", "score_threshold"), "0.5"),
    (("ssdlite", "output", "score_threshold"), None),
    (("ssdlite", "output", "iou_threshold"), float("nan")),
    (("ssdlite", "output", "max_detections"), 1e9),
    (("ssdlite", "output", "max_detections"), -1),
    (("ssdlite", "output", "candidates_per_class"), "400"),
    (("ssdlite", "output", "variances"), []),
    (("ssdlite", "output", "variances"), ["a", "b"]),
    (("ssdlite", "config"), None),
    (("ssdlite", "config"), [1]),
]


def write_onnx(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "best.onnx"
    path.write_bytes(onnx_model({key: json.dumps(value) for key, value in values.items()}))
    return path


@pytest.mark.parametrize(("where", "value"), METADATA, ids=range(len(METADATA)))
def test_a_wrong_value_in_an_exported_file(tmp_path: Path, where: tuple[Any, ...], value: Any) -> None:
    path = write_onnx(tmp_path, changed(properties(), where, value))
    assert_refused(lambda: OnnxPredictor(path), path, "export the checkpoint again")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000, "9" * 5000])
@pytest.mark.parametrize("key", ["names", "ssdlite"])
def test_metadata_that_is_no_json(tmp_path: Path, key: str, text: str) -> None:
    values = {name: json.dumps(value) for name, value in properties().items()} | {key: text}
    (tmp_path / "best.onnx").write_bytes(onnx_model(values))
    assert_refused(lambda: OnnxPredictor(tmp_path / "best.onnx"), "best.onnx", "damaged metadata")


def test_a_sound_exported_file_is_read(tmp_path: Path) -> None:
    predictor = OnnxPredictor(write_onnx(tmp_path, properties()))
    assert predictor.class_names == ("cat", "dog") and predictor.input_size == (64, 64)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "gone"])
def test_weights_outside_an_exported_file(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(12))
    (tmp_path / "model").mkdir()
    model = onnx.load_from_string(onnx_model({}))
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[3])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    model.graph.initializer.append(tensor)
    model.graph.node[1].CopyFrom(onnx.helper.make_node("Add", ["mean", "w"], ["boxes"]))
    path = tmp_path / "model" / "best.onnx"
    path.write_bytes(model.SerializeToString())
    assert_refused(lambda: OnnxPredictor(path), path)


def read_results(folder: Path, content: bytes | str) -> Any:
    path = folder / "results.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return read_coco_results(path, SPLIT)


RESULT_VALUES: list[tuple[tuple[Any, ...], Any, str]] = [
    ((0,), 5, "result 0 is int"),
    ((0,), None, "result 0 is NoneType"),
    ((1,), [], "result 1 is list"),
    ((0, "bbox"), "1234", "result 0 has bbox '1234'"),
    ((0, "bbox"), ["1", "2", "3", "4"], "result 0 has bbox ['1', '2', '3', '4']"),
    ((0, "bbox"), [True, 2, 3, 4], "result 0 has bbox [True, 2, 3, 4]"),
    ((0, "bbox"), [1, 2, 3, float("nan")], "result 0 has bbox [1, 2, 3, nan]"),
    ((0, "bbox"), [3e38, 0, 3e38, 1], "result 0 has bbox [3e+38, 0, 3e+38, 1]"),
    ((0, "bbox"), ["x" * 10**6] * 5, "result 0 has bbox"),
    ((0, "score"), "0.5", "result 0 has score '0.5'"),
    ((0, "score"), True, "result 0 has score True"),
    ((0, "score"), None, "result 0 has score None"),
    ((0, "score"), float("inf"), "result 0 has score inf"),
    ((0, "score"), 10**4000, "result 0 has score 1000"),
    ((0, "image_id"), None, "result 0 has image_id None"),
    ((0, "image_id"), [1], "result 0 has image_id [1]"),
    ((0, "image_id"), True, "result 0 has image_id True"),
    ((0, "image_id"), 1.0, "result 0 has image_id 1.0"),
    ((0, "image_id"), "x" * 10**6, "image ids are not in this split"),
    ((0, "image_id"), "\x1b[31m\ud800", "image ids are not in this split (\\x1b[31m\\ud800)"),
    ((0, "category_id"), {}, "result 0 has category_id {}"),
    ((0, "category_id"), 10**30, "category ids are not in this split"),
]


@pytest.mark.parametrize(("where", "value", "sentence"), RESULT_VALUES, ids=range(len(RESULT_VALUES)))
def test_a_wrong_value_in_results(tmp_path: Path, where: tuple[Any, ...], value: Any, sentence: str) -> None:
    text = json.dumps(changed(RESULTS, where, value))
    assert_refused(lambda: read_results(tmp_path, text), tmp_path / "results.json", sentence)


def nested(depth: int) -> str:
    return json.dumps(RESULTS).replace('"two"', "[" * depth + "]" * depth)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        "[" * 100_000,
        nested(200),
        nested(900),
        nested(100_000),
        json.dumps(RESULTS)[:-20],
        json.dumps(RESULTS).replace('"score"', '"score": 1, "score"', 1),
        json.dumps({"annotations": RESULTS}),
    ],
    ids=range(9),
)
def test_no_results(tmp_path: Path, content: bytes | str) -> None:
    assert_refused(lambda: read_results(tmp_path, content), tmp_path / "results.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_results_in_any_utf(tmp_path: Path, encoding: str) -> None:
    first, second = read_results(tmp_path, json.dumps(RESULTS).encode(encoding))
    assert first.boxes.tolist() == [[10, 5, 30, 15.5]] and second.labels.tolist() == [2]


def encoded(file_format: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, file_format)
    return buffer.getvalue()


IMAGES = {
    "truncated JPEG": encoded("JPEG")[:600],
    "truncated PNG": encoded("PNG")[:600],
    "truncated WEBP": encoded("WEBP")[:200],
    "header of a JPEG": encoded("JPEG")[:4],
    "header of a PNG": encoded("PNG")[:33],
    "PNG of no size": png_that_claims(0, 0),
    "PNG of 4e18 pixels": png_that_claims(2**31 - 1, 2**31 - 1),
    "PNG of 1.6e9 pixels": png_that_claims(40_000, 40_000),
    "PNG of one long row": png_that_claims(2**31 - 1, 1),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "text": b"version https://git-lfs.github.com/spec/v1\n",
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("content", IMAGES.values(), ids=IMAGES.keys())
def test_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a b é.img"
    path.write_bytes(content)
    assert_refused(lambda: read_image(path), path)


@pytest.mark.parametrize(
    "name", ["header of a JPEG", "SVG", "text", "zeros", "PNG of 4e18 pixels", "PNG of 1.6e9 pixels"]
)
def test_no_size_of_an_image(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.img").write_bytes(IMAGES[name])
    assert_refused(lambda: image_size(tmp_path / "a.img"), tmp_path / "a.img")
