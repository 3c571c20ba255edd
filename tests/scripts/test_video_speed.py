"""The film that is measured with, and what is read of a measurement."""

import cv2
import pytest

from scripts.video_speed import draw_film, read_rate


def test_the_film_is_what_the_target_names(tmp_path):
    draw_film(tmp_path / "film.mp4", 3)
    capture = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert [capture.get(key) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)] == [640, 480]
    assert capture.get(cv2.CAP_PROP_FPS) == 25 and capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    first, second = (capture.read()[1] for _ in range(2))
    assert (first != second).any()


def test_rates_are_read_from_what_predict_prints(cli, lively, tmp_path):
    draw_film(tmp_path / "film.mp4", 2)
    result = cli("predict", lively / "model.onnx", tmp_path / "film.mp4", "--output", tmp_path / "out")
    assert 0 < read_rate(result.out) < 1e6
    assert read_rate("3 objects in 250 images (83.4 images/s); pictures in out") == 83.4
    with pytest.raises(SystemExit, match="no such file"):
        read_rate("error: x: no such file")
