import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.predictor import FilePredictor

from .conftest import SIZE, assert_same_detections


class OnnxSession:
    """InferenceSession of an .onnx file that records its calls."""

    def __init__(self, path, batch_size=None):
        self.file = OnnxPredictor(path)
        self.metadata, self.batch_size, self.asked = self.file.metadata, batch_size, []
        self.runs_in_threads, self.inside, self.most = False, 0, 0

    def answer(self, images):
        assert images.dtype == np.float32 and images.flags.c_contiguous
        self.asked.append(len(images))
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.01)  # long enough for another thread to come in
        self.inside -= 1
        return self.file.run(images)


@pytest.mark.parametrize("head", ["decoded", "raw", "raw-levels"])
def test_detections_are_those_of_final_heads(files, images, head):
    batch = SimpleNamespace(
        images=images, original_sizes=[(96, 128), (960, 64), (50, 333), (1, 1), (96, 128), (7, 9)]
    )
    found, expected = FilePredictor(OnnxSession(files[head]))(batch), OnnxPredictor(files["nms"])(batch)
    assert sum(len(detections.scores) for detections in found) > 100
    for ours, theirs in zip(found, expected, strict=True):
        assert_same_detections(ours, theirs, pixels=1)


@pytest.mark.parametrize(
    ("fixed", "asked_for", "runs"), [(None, None, [6]), (None, 4, [4, 2]), (1, None, [1] * 6), (1, 1, [1] * 6)]
)
def test_images_run_as_many_at_a_time_as_the_file_takes(files, images, fixed, asked_for, runs):
    session = OnnxSession(files["raw"], fixed)
    outputs = FilePredictor(session).run(images, asked_for)
    assert session.asked == runs
    assert np.allclose(outputs["logits"], OnnxPredictor(files["raw"]).run(images)["logits"], atol=1e-4)


@pytest.mark.parametrize("head", ["decoded", "raw"])
def test_no_images_give_no_rows(files, head):
    predictor = FilePredictor(OnnxSession(files[head]))
    boxes, scores = predictor.decode(predictor.run(np.zeros((0, 3, *SIZE), np.uint8)))
    assert boxes.shape == (0, 258, 4) and scores.shape == (0, 258, 3)


def test_threads_take_turns_unless_the_runtime_can_do_without(files, images):
    for runs_in_threads in (False, True):
        session = OnnxSession(files["decoded"])
        session.runs_in_threads = runs_in_threads
        predictor = FilePredictor(session)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(predictor.run, [images[:1]] * 12))
        assert len(session.asked) == 12 and (session.most == 1) == (not runs_in_threads)
