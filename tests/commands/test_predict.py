"""`ssdlite predict` as a person types it: every kind of input, every kind of output."""

import io
import itertools
import json
import shutil
import signal
import sys

import cv2
import numpy as np
import pytest

from ssdlite.inference.outputs import Outputs

from ..inference.films import read_film, serve_frames, serve_nothing

LOW = ("--score-threshold", 0.3)


@pytest.fixture(scope="module")
def model(lively):
    return lively / "model.onnx"


@pytest.fixture
def film(drawn, tmp_path):
    """Eleven frames of 96x96 at 10 a second, of which each shows a drawn picture."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 96))
    pictures = sorted((drawn / "val").glob("*.jpg"))
    for number in range(11):
        writer.write(cv2.imread(str(pictures[number % len(pictures)])))
    writer.release()
    return path


def rows_of(folder):
    return json.loads((folder / "predictions.json").read_text())


def assert_same_rows(found, expected):
    """The same detections in each, as sets: in other batches rounding differs, and two that nearly tie may swap."""
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = ours["detections"], theirs["detections"]
        assert len(ours) == len(theirs)
        is_same = np.array([[a["label"] == b["label"] for b in theirs] for a in ours]).reshape(len(ours), -1)
        for key, allowed in (("score", 2e-5), ("box", 0.02)):
            a, b = (np.array([row[key] for row in rows]).reshape(len(rows), -1) for rows in (ours, theirs))
            is_same &= (np.abs(a[:, None] - b) <= allowed).all(axis=2)
        assert is_same.any(axis=1).all() and is_same.any(axis=0).all()


def run(cli, *arguments):
    result = cli("predict", *arguments)
    assert result.code == 0, result.err
    return result.out


def test_a_video_gives_a_video(cli, model, film, tmp_path):
    out = run(cli, model, film, "--output", tmp_path / "out", *LOW)
    assert "in 11 images" in out and "images/s" in out
    frames, rate = read_film(tmp_path / "out" / "film.mp4")
    assert len(frames) == 11 and frames[0].shape == (96, 96, 3) and rate == 10
    rows = rows_of(tmp_path / "out")
    assert [(row["frame"], row["time"]) for row in rows] == [(i, i / 10) for i in range(11)]
    assert {row["image"] for row in rows} == {str(film)} and any(row["detections"] for row in rows)
    originals, _ = read_film(film)
    # Boxes are drawn where something was found, and nothing elsewhere.
    changed = [np.abs(a.astype(int) - b).max() > 100 for a, b in zip(frames, originals, strict=True)]
    assert [bool(row["detections"]) for row in rows] == changed


def test_every_fourth_frame(cli, model, film, tmp_path):
    run(cli, model, film, "--every", 4, "--output", tmp_path / "out", *LOW)
    frames, rate = read_film(tmp_path / "out" / "film.mp4")
    assert len(frames) == 3 and rate == 2.5
    assert [row["frame"] for row in rows_of(tmp_path / "out")] == [0, 4, 8]


def test_images_and_videos_folders_and_patterns(cli, model, drawn, film, tmp_path):
    folder = tmp_path / "in" / "deeper"
    shutil.copytree(drawn / "val", folder)
    shutil.copy(film, tmp_path / "in")
    (folder / "broken.jpg").write_bytes(b"no image")
    result = run(cli, model, tmp_path / "in", "--recursive", "--output", tmp_path / "a", *LOW)
    assert "in 19 images" in result and "left out" in result and "broken.jpg" in result
    assert len(list((tmp_path / "a").glob("*.jpg"))) == 8 and (tmp_path / "a" / "film.mp4").is_file()
    run(cli, model, f"{folder}/*[1-3].jpg", "--output", tmp_path / "b", *LOW)
    named = [row["image"] for row in rows_of(tmp_path / "b")]
    assert named == [str(path) for path in sorted(folder.glob("*[1-3].jpg"))] and named
    by_name = {row["image"]: row for row in rows_of(tmp_path / "a")}
    assert_same_rows([by_name[name] for name in named], rows_of(tmp_path / "b"))


def test_standard_input(cli, model, drawn, tmp_path, monkeypatch):
    paths = sorted((drawn / "val").glob("*.jpg"))[:3]
    run(cli, model, *paths, "--no-pictures", "--output", tmp_path / "files", *LOW)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"".join(path.read_bytes() for path in paths))))
    run(cli, model, "-", "--output", tmp_path / "piped", *LOW)
    piped, files = rows_of(tmp_path / "piped"), rows_of(tmp_path / "files")
    assert [(row["image"], row["frame"]) for row in piped] == [("-", 0), ("-", 1), ("-", 2)]
    assert_same_rows(piped, files)
    assert sorted(path.name for path in (tmp_path / "piped").glob("*.jpg")) == [
        f"stdin-00000{number}.jpg" for number in range(3)
    ]


def test_json_text_crops_and_pictures_tell_the_same(cli, model, drawn, tmp_path):
    image = sorted((drawn / "val").glob("*.jpg"))[0]
    run(
        cli, model, image, "--output", tmp_path / "out", "--save-json", tmp_path / "found.json",
        "--save-txt", tmp_path / "txt", "--save-crops", tmp_path / "crops", *LOW,
    )  # fmt: skip
    (row,) = json.loads((tmp_path / "found.json").read_text())
    assert row["detections"]
    names = (tmp_path / "txt" / "classes.txt").read_text().splitlines()
    lines = (tmp_path / "txt" / f"{image.stem}.txt").read_text().splitlines()
    assert len(lines) == len(row["detections"])
    crops = {path: cv2.imread(str(path)).shape[:2] for path in (tmp_path / "crops").rglob("*.jpg")}
    counts: dict[str, int] = {}
    for line, detection in zip(lines, row["detections"], strict=True):
        index, *numbers = line.split()
        x, y, width, height, score = map(float, numbers)
        x1, y1, x2, y2 = detection["box"]
        assert names[int(index)] == detection["label"] and score == detection["score"]
        assert [x * 96, y * 96] == pytest.approx([(x1 + x2) / 2, (y1 + y2) / 2], abs=0.01)
        assert [width * 96, height * 96] == pytest.approx([x2 - x1, y2 - y1], abs=0.02)
        name = detection["label"]
        counts[name] = counts.get(name, 0) + 1
        crop = crops.pop(tmp_path / "crops" / name / f"{image.stem}-{counts[name]}.jpg")
        assert crop == pytest.approx((y2 - y1, x2 - x1), abs=1.01)
    assert not crops
    assert not (tmp_path / "out" / "predictions.json").exists() and (tmp_path / "out" / image.name).is_file()


def test_thresholds_for_all_and_for_a_class(cli, lively, drawn, tmp_path):
    def found(*texts):
        options = [word for text in texts for word in ("--score-threshold", text)]
        run(cli, lively / "model.pt", drawn / "val", "--no-pictures", "--output", tmp_path / "out", *options)
        return [detection for row in rows_of(tmp_path / "out") for detection in row["detections"]]

    everything = found(0.3)
    # Between two scores: those in the file are rounded, those that are compared with the limit are not.
    name, scores = everything[0]["label"], sorted(d["score"] for d in everything)
    limit = (
        sum(max(itertools.pairwise(scores[len(scores) // 4 :][: len(scores) // 2]), key=lambda p: p[1] - p[0])) / 2
    )
    assert found(0.3, f"{name}={limit}") == [d for d in everything if d["label"] != name or d["score"] > limit]
    assert found(1, f"{name}=0.3") == [d for d in everything if d["label"] == name]
    assert found() == [d for d in everything if d["score"] > 0.4]


def test_an_unknown_class_and_what_an_exported_file_cannot_find(cli, model, drawn, tmp_path):
    result = cli("predict", model, drawn / "val", "--output", tmp_path, "--score-threshold", "hart=0.3")
    assert result.code == 2 and "there is no class 'hart' in this model; did you mean 'heart'?" in result.err
    out = run(cli, model, drawn / "val", "--no-pictures", "--output", tmp_path, "--score-threshold", 0.001)
    assert "exported with eval.score_threshold=0.01" in out


@pytest.mark.parametrize("options", [["--batch-size", 3], ["--tile", 96], ["--batch-size", 5, "--tile", 4000]])
def test_batches_and_tiles_that_cover_the_image_change_nothing(cli, model, drawn, tmp_path, options):
    for name, extra in (("plain", []), ("other", options)):
        run(cli, model, drawn / "val", "--no-pictures", "--output", tmp_path / name, *LOW, *extra)
    plain, other = rows_of(tmp_path / "plain"), rows_of(tmp_path / "other")
    assert [row["image"] for row in plain] == [row["image"] for row in other]
    assert_same_rows(plain, other)
    assert any(row["detections"] for row in plain)


def test_tiles_reach_the_network(cli, model, drawn, tmp_path):
    """A picture of four drawn ones: each tile shows the network one of them."""
    pictures = [cv2.imread(str(path)) for path in sorted((drawn / "val").glob("*.jpg"))[:4]]
    large = np.vstack([np.hstack(pictures[:2]), np.hstack(pictures[2:])])
    cv2.imwrite(str(tmp_path / "large.png"), large)
    options = ["--no-pictures", "--output", tmp_path / "out", *LOW]
    run(cli, model, tmp_path / "large.png", "--tile", 96, "--tile-overlap", 0, *options)
    (tiled,) = rows_of(tmp_path / "out")
    run(cli, model, tmp_path / "large.png", *options)
    (whole,) = rows_of(tmp_path / "out")
    assert tiled["detections"] != whole["detections"]
    assert any(detection["box"][0] >= 96 for detection in tiled["detections"])
    assert max(max(detection["box"]) for detection in tiled["detections"]) <= 192


def test_nothing_is_drawn_when_not_asked(cli, model, drawn, film, tmp_path):
    run(cli, model, drawn / "val", film, "--no-pictures", "--output", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_a_window_needs_a_screen(cli, model, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("ssdlite.commands.predict.has_display", lambda: False)
    result = cli("predict", model, drawn / "val", "--output", tmp_path / "out", "--show")
    assert result.code == 2 and "--show needs a screen" in result.err and len(result.err.splitlines()) == 1
    shown = []
    monkeypatch.setattr("ssdlite.commands.predict.has_display", lambda: True)
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture), raising=False)
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 3 else -1, raising=False)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0, raising=False)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None, raising=False)
    run(cli, model, drawn / "val", "--output", tmp_path / "out", "--show", "--no-pictures")
    assert len(shown) == len(rows_of(tmp_path / "out")) == 3  # q ended it


def test_a_stream_is_filmed_until_it_ends(cli, model, tmp_path):
    with serve_frames(5, (96, 96)) as address:
        run(cli, model, address, "--output", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    frames, _ = read_film(tmp_path / "out" / "127.0.0.1.mp4")
    assert len(frames) == rows[-1]["frame"] - rows[0]["frame"] + 1


def test_a_dead_stream_ends_with_a_sentence_and_keeps_what_it_gave(cli, model, tmp_path):
    with serve_nothing() as address:
        result = cli("predict", model, address, "--output", tmp_path / "a", "--timeout", 1)
    assert result.code == 1 and "cannot be opened within 1 s" in result.err
    with serve_frames(4, (96, 96), then_silent=True) as address:
        result = cli("predict", model, address, "--output", tmp_path / "b", "--timeout", 1)
    assert result.code == 1 and "no picture came for 1 s" in result.err
    assert len(result.err.splitlines()) == 1
    assert rows_of(tmp_path / "b") and read_film(tmp_path / "b" / "127.0.0.1.mp4")[0]


@pytest.fixture
def interrupted_after_three(monkeypatch):
    """Ctrl-C while the third picture is written."""
    write = Outputs.write

    def write_and_interrupt(self, prediction):
        write(self, prediction)
        if self.num_images == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Outputs, "write", write_and_interrupt)


def test_ctrl_c_ends_a_video_properly(cli, model, film, tmp_path, interrupted_after_three):
    result = cli("predict", model, film, "--output", tmp_path / "out")
    assert result.code == 130 and "in 3 images" in result.out
    assert len(read_film(tmp_path / "out" / "film.mp4")[0]) == len(rows_of(tmp_path / "out")) == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["film.mp4", "predictions.json"]


def test_ctrl_c_is_how_a_camera_ends(cli, model, tmp_path, interrupted_after_three):
    with serve_frames(3, (96, 96), then_silent=True) as address:
        result = cli("predict", model, address, "--output", tmp_path / "out")
    assert result.code == 0, result.err
    assert len(rows_of(tmp_path / "out")) == 3 and read_film(tmp_path / "out" / "127.0.0.1.mp4")[0]


def test_a_video_is_not_overwritten_by_its_own(cli, model, film, tmp_path):
    clip = tmp_path / "clip.mp4"
    shutil.copy(film, clip)
    before = clip.read_bytes()
    result = cli("predict", model, clip, "--output", tmp_path)
    assert result.code == 2 and "clip.mp4 would be overwritten" in result.err and clip.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tile-overlap", 0.5], "--tile-overlap has no effect without --tile"),
        (["--every", 2], "--every has no effect"),
        (["--timeout", 3], "--timeout has no effect"),
        (["--recursive"], "--recursive has no effect"),
        (["--score-threshold", "high"], "'high': give a number"),
    ],
)
def test_options_without_effect_are_refused(cli, model, drawn, tmp_path, options, sentence):
    image = min((drawn / "val").glob("*.jpg"))
    result = cli("predict", model, image, "--output", tmp_path / "out", *options)
    assert result.code == 2 and sentence in result.err and len(result.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
