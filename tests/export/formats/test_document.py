import json

import numpy as np
import onnx
import pytest

from ssdlite.errors import CheckpointError
from ssdlite.export.metadata import document_path, read_card, write_document


@pytest.fixture
def properties(files):
    return {entry.key: entry.value for entry in onnx.load(files["raw"]).metadata_props}


def test_the_card_of_a_document_is_that_of_the_onnx_file(detector, properties, tmp_path):
    path = tmp_path / "best.ncnn.param"
    write_document(path, {"format": "ncnn"}, properties)
    card = read_card(path)
    assert card.class_names == ("Maß", "dog", "train") and card.head == "raw"
    assert np.array_equal(card.priors, detector.priors.numpy())
    text = document_path(path).read_text(encoding="utf-8")
    assert len(text.splitlines()) == 2 + 1 + len(properties)  # a line a key
    assert "Maß" in text and json.loads(text)["format"] == "ncnn"


def test_a_file_without_its_document_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"needs best.tflite.json beside it"):
        read_card(tmp_path / "best.tflite")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        ("{}", "was not exported by ssdlite"),
        ('{"names": ["a"], "ssdlite": {}}', "damaged metadata"),
        ('{"names": ["a"], "ssdlite": 3}', "damaged metadata"),
    ],
)
def test_damaged_documents_are_refused(tmp_path, text, said):
    path = tmp_path / "best.tflite"
    document_path(path).write_text(text)
    with pytest.raises(CheckpointError, match=said):
        read_card(path)
