import io

import cv2
import numpy as np
import pytest

from ssdlite.errors import ConfigError, DataError
from ssdlite.inference import inputs
from ssdlite.inference.inputs import EncodedImages, ImageFile, find_inputs
from ssdlite.inference.video import Video

from .films import write_film


def write(path, value=128):
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.full((40, 60, 3), value, np.uint8))
    return path


def names(*arguments, **options):
    return [source.name for source in find_inputs([str(argument) for argument in arguments], **options)]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.JPG", "a.png", "c.jpeg", "deeper/d.png"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "._a.png").write_bytes(b"what a Mac leaves beside each file")
    (tmp_path / "odd.png").mkdir()
    write_film(tmp_path / "film.mp4", 2)
    return tmp_path


def test_files_and_folders_give_each_picture_once(folder):
    a, b, c, film = (str(folder / name) for name in ("a.png", "b.JPG", "c.jpeg", "film.mp4"))
    assert names(folder) == [a, b, c, film]
    assert names(c, folder, a) == [c, a, b, film]
    assert names(folder / "notes.txt") == [str(folder / "notes.txt")]  # asked for by name
    assert names(folder, recursive=True) == [a, b, c, str(folder / "deeper" / "d.png"), film]
    kinds = [type(source) for source in find_inputs([a, film])]
    assert kinds == [ImageFile, Video]


def test_patterns(folder, monkeypatch):
    assert names(folder / "*.*p*g") == [str(folder / name) for name in ("a.png", "c.jpeg")]
    assert names(folder / "**" / "*.png") == [str(folder / name) for name in ("a.png", "deeper/d.png")]
    monkeypatch.chdir(folder)
    assert names("[ab].*") == ["a.png", "b.JPG"]
    write(folder / "[x].png")
    assert names("[x].png") == ["[x].png"]  # a file of that name is no pattern


def test_a_number_is_a_camera_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (camera,) = find_inputs(["0"], patience=3, every=2)
    assert camera == Video("0", "camera-0", 2, 3)
    write(tmp_path / "0.png").rename(tmp_path / "0")
    assert find_inputs(["0"]) == [ImageFile(tmp_path.relative_to(tmp_path) / "0", "0")]


@pytest.mark.parametrize(
    ("address", "stem"),
    [
        ("rtsp://me:secret@door.local:554/live?x=1", "door.local"),
        ("http://127.0.0.1:8080", "127.0.0.1"),
        ("udp://@:1234", "stream"),
    ],
)
def test_an_address_is_a_stream_and_its_files_tell_no_secrets(address, stem):
    (stream,) = find_inputs([address])
    assert (stream.name, stream.stem, stream.patience) == (address, stem, 10)


def test_what_never_ends_is_alone(folder):
    with pytest.raises(ConfigError, match="http://x may never end, so it must be the only input"):
        find_inputs([str(folder), "http://x"])


def test_stems_are_distinct(tmp_path):
    for name in ("one/a.png", "two/a.png", "two/A.jpg", "two/a-2.png"):
        write(tmp_path / name)
    found = find_inputs([str(tmp_path / "one"), str(tmp_path / "two")])
    assert len({source.stem.lower() for source in found}) == 4 and found[0].stem == "a"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "nothing was given"),
        (["EMPTY"], "no images or videos"),
        (["gone.jpg"], "gone.jpg: there is no such file"),
        (["EMPTY/*.jpg"], "no image or video .* matches"),
        (["x" * 5000], "check the path"),
        (["a\0b.jpg"], "check the path"),
    ],
)
def test_nothing_to_look_at(tmp_path, given, sentence):
    with pytest.raises(DataError, match=sentence):
        find_inputs([text.replace("EMPTY", str(tmp_path)) for text in given])


def test_a_folder_of_folders_is_told_how(folder):
    (folder / "outer").mkdir()
    (folder / "deeper").rename(folder / "outer" / "deeper")
    with pytest.raises(DataError, match="--recursive looks deeper"):
        find_inputs([str(folder / "outer")])


def test_standard_input(monkeypatch):
    class Pipe:
        buffer = io.BytesIO()

        def isatty(self):
            return False

    monkeypatch.setattr(inputs.sys, "stdin", Pipe())
    (source,) = find_inputs(["-"])
    assert isinstance(source, EncodedImages) and source.stem == "stdin"
    with pytest.raises(DataError, match="standard input is empty"):
        list(source)
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (10, 200)]
    Pipe.buffer = io.BytesIO(b"".join(cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures))
    frames = list(find_inputs(["-"])[0])
    assert [(frame.number, int(frame.read().mean())) for frame in frames] == [(0, 10), (1, 200)]
    assert frames[1].stem == "stdin-000001"
    Pipe.buffer = io.BytesIO(b"no image")
    with pytest.raises(DataError, match="image 0 of standard input: not a readable image"):
        next(iter(find_inputs(["-"])[0])).read()
    Pipe.isatty = lambda self: True
    with pytest.raises(ConfigError, match="nothing is piped"):
        find_inputs(["-"])
