"""The real runtimes, where they are installed, on the small network."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch

from ssdlite.errors import CheckpointError
from ssdlite.export.exporters.formats import export_file
from ssdlite.export.formats.registry import RUNTIMES, open_file
from ssdlite.export.metadata import sidecar_path
from ssdlite.export.verify.compare import verify_file
from ssdlite.models.decode import decode_output

from ..conftest import DECODER, METADATA
from .conftest import RUNNABLE, require_runtime


def boxes_and_scores(path, images):
    predictor = open_file(path, threads=1)
    return predictor.decode(predictor.run(images))


@pytest.mark.parametrize("name", RUNNABLE)
def test_boxes_and_scores_are_those_of_pytorch(exported, detector, images, name):
    found, found_scores = boxes_and_scores(exported(name), images)
    with torch.inference_mode():
        boxes, scores = decode_output(detector(torch.from_numpy(images)), detector.input_size)
    # Random weights turn rounding into 1e-4 in the scores.
    assert np.abs(found_scores - scores.numpy()).max() < 1e-3
    assert np.abs(found - boxes.numpy()).max() < 0.05


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_planted_error_is_found(exported, detector, images, name):
    predictor, wrong = open_file(exported(name)), copy.deepcopy(detector)
    with torch.no_grad():
        wrong.normalize.mean += 1
    assert verify_file(predictor, detector, images).passed
    assert not verify_file(predictor, wrong, images).passed


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_file_says_what_it_is(exported, name):
    path = exported(name)
    predictor, document = open_file(path), json.loads(sidecar_path(path).read_text(encoding="utf-8"))
    assert predictor.class_names == METADATA.class_names and predictor.config == METADATA.config
    assert predictor.metadata.selection.candidates_per_class == DECODER.candidates_per_class
    assert predictor.metadata.head == RUNTIMES[name].heads[0] and document["format"] == name
    assert all(size == (path.parent / file).stat().st_size for file, size in document["files"].items())


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_broken_file_is_one_sentence(exported, tmp_path, name):
    path = exported(name)
    for file in path.parent.glob(f"{path.name.split('.')[0]}*"):
        if file.is_file():
            shutil.copy(file, tmp_path / file.name)
    broken = tmp_path / path.name
    broken.write_bytes(b"no model" * 20)
    with pytest.raises(CheckpointError, match=f"{broken.name} cannot be loaded by"):
        open_file(broken)


@pytest.mark.parametrize("name", ["openvino", "ncnn"])
def test_weights_in_float16_take_half_the_room(exported, detector, images, tmp_path, name):
    """Random weights make more of the rounding than trained ones, so the rule of the verification is not asked
    here."""
    whole, path = exported(name), tmp_path / f"half{RUNTIMES[name].name_suffix}"
    export_file(
        detector, path, name, decoder=DECODER, metadata=METADATA, verification_images=None, precision="fp16"
    )
    found, expected = (boxes_and_scores(file, images)[1] for file in (path, whole))
    assert 0 < np.abs(found - expected).max() < 0.2 and np.abs(found - expected).mean() < 0.01
    assert path.with_suffix(".bin").stat().st_size < 0.6 * whole.with_suffix(".bin").stat().st_size
    assert open_file(path).metadata.document["precision"] == "fp16"


def test_openvino_runs_any_number_of_images(exported, images):
    predictor = open_file(exported("openvino"))
    assert predictor.batch_size is None
    for count in (1, 3, 6):
        assert predictor.run(images[:count])["boxes"].shape[0] == count


def test_ncnn_needs_its_weights_beside_it(exported, tmp_path):
    path = exported("ncnn")
    for file in (path, sidecar_path(path)):
        shutil.copy(file, tmp_path / file.name)
    with pytest.raises(CheckpointError, match=r"needs small.ncnn.bin beside it"):
        open_file(tmp_path / path.name)


def test_core_ml_is_written_but_not_run(detector, tmp_path):
    require_runtime("coreml")
    path = tmp_path / "small.mlpackage"
    for _ in range(2):  # the second replaces the first
        report = export_file(
            detector, path, "coreml", decoder=DECODER, metadata=METADATA, verification_images=None, precision="fp16"
        )
    assert report is None and (path / "Manifest.json").is_file() and sidecar_path(path).is_file()
    with pytest.raises(CheckpointError, match="Core ML is there on Apple's systems only"):
        open_file(path)
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    model.ParseFromString((path / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    assert [(entry.name, entry.type.WhichOneof("Type")) for entry in model.description.input] == [
        ("images", "imageType")
    ]
    assert [entry.name for entry in model.description.output] == ["boxes", "scores"]
    assert "Maß" in model.description.metadata.userDefined["names"]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(CheckpointError, match="is no exported file"):
        open_file(tmp_path / "x.txt")
    with pytest.raises(CheckpointError, match="there is no model file"):
        open_file(tmp_path / "x.xml")
