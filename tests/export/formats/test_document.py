import json

import numpy as np
import onnx
import pytest

from ssdlite.errors import CheckpointError
from ssdlite.export.metadata import read_metadata, sidecar_path, write_sidecar


@pytest.fixture
def properties(files):
    return {entry.key: entry.value for entry in onnx.load(files["raw"]).metadata_props}


def test_the_card_of_a_document_is_that_of_the_onnx_file(detector, properties, tmp_path):
    path = tmp_path / "best.ncnn.param"
    write_sidecar(path, {"format": "ncnn"}, properties)
    metadata = read_metadata(path)
    assert metadata.class_names == ("Maß", "dog", "train") and metadata.head == "raw"
    assert np.array_equal(metadata.priors, detector.priors.numpy())
    text = sidecar_path(path).read_text(encoding="utf-8")
    assert len(text.splitlines()) == 2 + 1 + len(properties)  # a line a key
    assert "Maß" in text and json.loads(text)["format"] == "ncnn"


def test_a_file_without_its_document_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"needs the file best.tflite.json beside it"):
        read_metadata(tmp_path / "best.tflite")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "is not a JSON object"),
        ("{}", "was not exported by ssdlite"),
        ('{"names": ["a"], "ssdlite": {}}', "damaged metadata"),
        ('{"names": ["a"], "ssdlite": 3}', "damaged metadata"),
    ],
)
def test_damaged_documents_are_refused(tmp_path, text, said):
    path = tmp_path / "best.tflite"
    sidecar_path(path).write_text(text)
    with pytest.raises(CheckpointError, match=said):
        read_metadata(path)
