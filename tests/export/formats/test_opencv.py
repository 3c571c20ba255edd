import cv2
import pytest

from ssdlite.errors import CheckpointError
from ssdlite.export.formats.opencv import OpenCvSession
from ssdlite.export.predictor import FilePredictor
from ssdlite.export.verify.compare import verify_file

ENGINES = [None, *(getattr(cv2.dnn, name) for name in ("ENGINE_CLASSIC", "ENGINE_NEW") if hasattr(cv2.dnn, name))]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("head", ["decoded", "raw"])
def test_both_engines_give_pytorchs_answers(files, detector, images, head, engine):
    """The last maps are 1×1, where the classic engine miscomputes depthwise 3×3; `fold_center_taps` avoids that."""
    found = verify_file(FilePredictor(OpenCvSession(files[head], engine=engine)), detector, images)
    assert found.passed and found.batch_sizes == (1, 4)


def test_a_broken_file_is_one_sentence(files, tmp_path, monkeypatch):
    def fail(*_):
        raise cv2.error("Layer with name X\nis not supported")

    monkeypatch.setattr(cv2.dnn, "readNetFromONNX", fail)
    with pytest.raises(CheckpointError, match=r"raw.onnx cannot be loaded by OpenCV: Layer with name X is not"):
        OpenCvSession(files["raw"])


def test_threads_are_those_of_the_process(files):
    before = cv2.getNumThreads()
    OpenCvSession(files["raw"], threads=1)
    assert cv2.getNumThreads() == 1
    cv2.setNumThreads(before)
