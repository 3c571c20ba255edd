import threading
import time
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import pytest

from ssdlite.errors import DataError
from ssdlite.inference.frames import Frame
from ssdlite.inference.images import Finder
from ssdlite.inference.inputs import find_inputs
from ssdlite.inference.pipeline import GRACE, Pipeline
from ssdlite.structures import Detections

from .films import write_film


def predictor(batch):
    """One detection in each image, as wide as the image is bright."""
    values = [float(np.asarray(image).mean()) for image in batch.images]
    boxes = [np.array([[0, 0, value, 1]], np.float32) for value in values]
    return [Detections(box, np.ones(1, np.float32), np.ones(1, np.int64)) for box in boxes]


@dataclass(frozen=True, eq=False)
class Camera:
    """A live source of `count` frames that does what it is told at its end.

    With `seen`, to which whoever looks appends, each frame comes when the one before was seen: none is lost.
    """

    count: int
    last: object = None
    seen: list | None = None
    name: str = "camera"
    stem: str = "camera"
    patience: float | None = 0.2

    def __iter__(self):
        for number in range(self.count):
            while self.seen is not None and len(self.seen) < number:
                time.sleep(0.001)
            yield Frame(self, partial(np.full, (8, 8, 3), number % 256, np.uint8), number, 25.0)
        if callable(self.last):
            self.last()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("num_finders", [1, 3])
def test_everything_comes_in_order(tmp_path, caplog, batch_size, num_finders):
    for number in range(7):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((30, 40, 3), 10 * number, np.uint8))
    (tmp_path / "3.png").write_bytes(b"no image")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    write_film(tmp_path / "film.mp4", 4)
    sources = find_inputs([str(tmp_path)])

    def slow_at_first(batch):
        time.sleep(0.05 if float(np.asarray(batch.images[0]).mean()) < 5 else 0)
        return predictor(batch)

    finder = Finder(slow_at_first, (8, 8), batch_size=batch_size)
    pipeline = Pipeline(sources, finder, num_readers=2, num_finders=num_finders)
    predictions = list(pipeline)
    assert [p.frame.stem for p in predictions] == [
        "0", "1", "2", "4", "5", "6", "film-000000", "film-000001", "film-000002", "film-000003"
    ]  # fmt: skip
    for prediction in predictions:
        assert prediction.detections.boxes[0, 2] == pytest.approx(prediction.image.mean(), abs=0.5)
    assert pipeline.num_unreadable == 2 and pipeline.num_dropped == 0
    assert "3.png" in caplog.text and "bad.mp4" in caplog.text and len(caplog.records) == 2


def test_no_sources():
    assert list(Pipeline([], Finder(predictor, (8, 8)))) == []


def test_little_is_under_way_at_once(tmp_path):
    """Whoever writes slowly holds up reading: memory is bounded."""
    read = []

    @dataclass(frozen=True, eq=False)
    class Endless:
        name: str = "endless"
        stem: str = "endless"
        patience: float | None = None

        def __iter__(self):
            for number in range(1000):
                read.append(number)
                yield Frame(self, partial(np.zeros, (8, 8, 3), np.uint8), number)

    predictions = iter(Pipeline([Endless()], Finder(predictor, (8, 8), batch_size=2)))
    next(predictions)
    time.sleep(0.5)
    assert len(read) < 20
    predictions.close()


def test_a_live_source_loses_frames_and_does_not_fall_behind():
    """The network is busy with its first frame until the camera has given its last."""
    done = threading.Event()

    def slow(batch):
        assert done.wait(60)
        return predictor(batch)

    pipeline = Pipeline([Camera(60, done.set)], Finder(slow, (8, 8), batch_size=1))
    numbers = [prediction.frame.number for prediction in pipeline]
    assert numbers == sorted(set(numbers)) and 2 <= len(numbers) < 10
    assert pipeline.num_dropped == 60 - len(numbers)


def test_errors_of_a_live_source_are_raised_after_what_it_gave():
    def fail():
        raise DataError("the plug was pulled")

    seen = []
    with pytest.raises(DataError, match="the plug was pulled"):
        for prediction in Pipeline([Camera(3, fail, seen)], Finder(predictor, (8, 8), batch_size=1)):
            seen.append(prediction.frame.number)
    assert seen == [0, 1, 2]


def test_errors_of_the_network_are_raised():
    def broken(batch):
        raise ValueError("out of memory")

    with pytest.raises(ValueError, match="out of memory"):
        list(Pipeline([Camera(3)], Finder(broken, (8, 8), batch_size=1)))


def test_a_source_that_hangs_is_given_up():
    """Whatever it hangs in: here it waits for ever, as some camera drivers do."""
    never = threading.Event()
    started = time.monotonic()
    with pytest.raises(DataError, match=r"camera: no picture came for 0\.2 s"):
        list(Pipeline([Camera(2, never.wait)], Finder(predictor, (8, 8), batch_size=1)))
    assert GRACE < time.monotonic() - started < GRACE + 5
    never.set()


def test_it_ends_when_asked():
    seen = []
    never = threading.Event()
    pipeline = Pipeline(
        [Camera(5, never.wait, seen, patience=60)],
        Finder(predictor, (8, 8), batch_size=1),
        stopped=lambda: len(seen) >= 5,
    )
    for prediction in pipeline:
        seen.append(prediction.frame.number)
    assert seen == [0, 1, 2, 3, 4]  # though the camera is still waited for
    never.set()
