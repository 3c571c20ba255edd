import time

import numpy as np
import pytest

from ssdlite.errors import DataError
from ssdlite.inference.video import FilmWriter, Video

from .films import number_of, read_film, serve_frames, serve_nothing, write_film


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_frames_of_a_file(tmp_path, suffix):
    path = write_film(tmp_path / f"film{suffix}", 12, (48, 64), 12.5)
    video = Video(str(path), "film")
    frames = list(video)
    assert video.num_frames == 12 and [frame.number for frame in frames] == list(range(12))
    assert {frame.rate for frame in frames} == {12.5} and {frame.read().shape for frame in frames} == {(48, 64, 3)}
    assert [number_of(frame.read()) for frame in frames] == list(range(12))
    assert frames[3].stem == "film-000003"


def test_every_third_frame(tmp_path):
    video = Video(str(write_film(tmp_path / "film.mp4", 11)), "film", every=3)
    frames = list(video)
    assert video.num_frames == 4 and [frame.number for frame in frames] == [0, 3, 6, 9]
    assert [number_of(frame.read()) for frame in frames] == [0, 3, 6, 9]


def test_colours_are_rgb(tmp_path):
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 220
    film = FilmWriter(tmp_path / "red.mp4", 25)
    film.write(red)
    film.close()
    (frame,) = Video(str(tmp_path / "red.mp4"), "red")
    assert np.abs(frame.read().mean(axis=(0, 1)) - [220, 0, 0]).max() < 12


def test_a_film_by_hand(tmp_path):
    film = FilmWriter(tmp_path / "new" / "film.mp4", 29.97)
    for value, times in ((40, 1), (200, 3)):
        film.write(np.full((33, 47, 3), value, np.uint8), times)
    film.write(np.full((66, 94, 3), 120, np.uint8))  # of another size
    assert not (tmp_path / "new" / "film.mp4").exists()
    film.close()
    frames, rate = read_film(tmp_path / "new" / "film.mp4")
    assert [round(float(frame.mean()) / 40) * 40 for frame in frames] == [40, 200, 200, 200, 120]
    assert rate == pytest.approx(29.97, abs=0.01) and frames[0].shape == (32, 46, 3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["film.mp4"]


def test_a_film_of_nothing_is_none(tmp_path):
    FilmWriter(tmp_path / "film.mp4", 25).close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="cannot write a video of 1x1 pixels"):
        FilmWriter(tmp_path / "film.mp4", 25).write(np.zeros((1, 1, 3), np.uint8))


def test_what_is_no_video(tmp_path, capfd):
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"bad.mp4: not a video that OpenCV can read"):
        list(Video(str(tmp_path / "bad.mp4"), "bad"))
    path = write_film(tmp_path / "film.mp4", 10, (480, 640))
    path.write_bytes(path.read_bytes()[:-200])  # its index is gone
    with pytest.raises(DataError, match=r"film\.mp4"):
        list(Video(str(path), "film"))
    assert capfd.readouterr().err == ""  # OpenCV and FFmpeg hold their tongues


def test_a_camera_that_is_not_there():
    with pytest.raises(DataError, match="camera 99 cannot be opened"):
        list(Video("99", "camera-99", patience=1))


def test_a_stream():
    with serve_frames(6) as address:
        video = Video(address, "stream", patience=10)
        assert video.num_frames is None
        assert [number_of(frame.read()) for frame in video] == list(range(6))


def test_a_stream_that_falls_silent_is_given_up():
    frames = []
    with serve_frames(4, then_silent=True) as address:
        started = time.monotonic()
        with pytest.raises(DataError, match="no picture came for 1 s"):
            for frame in Video(address, "stream", patience=1):
                frames.append(frame)
        assert time.monotonic() - started < 10
    assert len(frames) >= 1


def test_a_server_without_an_answer_is_given_up():
    with serve_nothing() as address:
        started = time.monotonic()
        with pytest.raises(DataError, match="cannot be opened within 1 s"):
            list(Video(address, "stream", patience=1))
        assert time.monotonic() - started < 10
