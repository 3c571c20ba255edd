"""Writers of predictions: pictures and films, JSON, text files, crops."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from ssdlite.drawing import draw_detections, write_image
from ssdlite.inference.frames import Prediction, Source, prediction_to_json
from ssdlite.inference.video import FilmWriter, Video
from ssdlite.io import write_text

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")  # kept as they are; of others a JPEG is made


class Writer(Protocol):
    """Keeps something of each prediction. `close` is called once, however it ended."""

    draws: bool
    """True for a writer that needs the picture with the boxes."""

    def write(self, prediction: Prediction, picture: np.ndarray | None) -> None: ...

    def close(self) -> None: ...


class Outputs:
    """Group of writers, within a context; pictures are drawn once for all of them."""

    def __init__(self, writers: Sequence[Writer], class_names: Sequence[str]) -> None:
        self.writers = writers
        self.class_names = class_names
        self.num_images = 0
        self.num_objects = 0

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as closing:  # each, also where another fails
            for writer in self.writers:
                closing.callback(writer.close)

    def write(self, prediction: Prediction) -> None:
        found = prediction.detections
        picture = None
        if any(writer.draws for writer in self.writers):
            picture = draw_detections(prediction.image, found.boxes, found.labels, self.class_names, found.scores)
        for writer in self.writers:
            writer.write(prediction, picture)
        self.num_images += 1
        self.num_objects += len(found.scores)


class Pictures:
    """A picture with boxes of each image, and a film of each video, in one folder."""

    draws = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._film: FilmWriter | None = None
        self._source: Source | None = None
        self._last = 0  # number of the film's last frame

    def path_of(self, source: Source) -> Path:
        """The file that `source` will have here, or its first one."""
        if isinstance(source, Video):
            return self.directory / f"{source.stem}.mp4"
        suffix = Path(source.name).suffix.lower()
        return self.directory / (source.stem + (suffix if suffix in PICTURE_SUFFIXES else ".jpg"))

    def write(self, prediction: Prediction, picture: np.ndarray | None) -> None:
        assert picture is not None
        frame = prediction.frame
        if not isinstance(frame.source, Video):
            write_image(self.path_of(frame.source).with_stem(frame.stem), picture)
            return
        assert frame.number is not None and frame.rate is not None
        every = frame.source.every
        if frame.source is not self._source:
            self.close()
            self._film = FilmWriter(self.path_of(frame.source), frame.rate / every)
            self._source, self._last = frame.source, frame.number - every
        assert self._film is not None
        # A frame that a live source lost is shown by the next one, so that the film keeps its pace.
        self._film.write(picture, times=(frame.number - self._last) // every)
        self._last = frame.number

    def close(self) -> None:
        if self._film is not None:
            self._film.close()
        self._film = self._source = None


class JsonFile:
    """A list with `prediction_to_json` of each. It is written on the way, and appears when it is closed."""

    draws = False

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path = path
        self.class_names = class_names
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file: IO[str] | None = None

    def write(self, prediction: Prediction, picture: np.ndarray | None) -> None:
        row = json.dumps(prediction_to_json(prediction, self.class_names), indent=1, ensure_ascii=False)
        opening = ",\n"
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file, opening = self._partial.open("w", encoding="utf-8"), "[\n"
        self._file.write(opening + " " + row.replace("\n", "\n "))

    def close(self) -> None:
        if self._file is None:
            write_text(self.path, "[]\n")
        else:
            with self._file:
                self._file.write("\n]\n")
            self._partial.replace(self.path)


class TextFiles:
    """A text file of each picture in YOLO's form, and the class names in classes.txt.

    A line is a detection: class from 0, then centre x, centre y, width and height as shares of the picture, then
    the score. A picture without detections has an empty file.
    """

    draws = False

    def __init__(self, directory: Path, class_names: Sequence[str]) -> None:
        self.directory = directory
        self.class_names = class_names

    def write(self, prediction: Prediction, picture: np.ndarray | None) -> None:
        height, width = prediction.image.shape[:2]
        boxes, scores, labels = prediction.detections
        shares = boxes / np.array([width, height, width, height], np.float32)
        centers, sides = (shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]
        lines = [
            f"{label - 1} {x:.6f} {y:.6f} {w:.6f} {h:.6f} {score:.5f}\n"
            for label, (x, y), (w, h), score in zip(labels, centers, sides, scores, strict=True)
        ]
        write_text(self.directory / f"{prediction.frame.stem}.txt", "".join(lines))

    def close(self) -> None:
        write_text(self.directory / "classes.txt", "".join(f"{name}\n" for name in self.class_names))


class Crops:
    """Writer of each box's content as a JPEG file CLASS/STEM-N.jpg; N counts the picture's objects of the class,
    best first.

    A box of less than a pixel within the picture gives none.
    """

    draws = False

    def __init__(self, directory: Path, class_names: Sequence[str]) -> None:
        self.directory = directory
        self.folders = [_as_folder(name) for name in class_names]

    def write(self, prediction: Prediction, picture: np.ndarray | None) -> None:
        height, width = prediction.image.shape[:2]
        count: Counter[str] = Counter()
        corners = np.clip(np.round(prediction.detections.boxes), 0, (width, height) * 2).astype(int).tolist()
        for (x1, y1, x2, y2), label in zip(corners, prediction.detections.labels.tolist(), strict=True):
            if x1 < x2 and y1 < y2:
                folder = self.folders[label - 1]
                count[folder] += 1
                path = self.directory / folder / f"{prediction.frame.stem}-{count[folder]}.jpg"
                write_image(path, prediction.image[y1:y2, x1:x2])

    def close(self) -> None:
        pass


def _as_folder(class_name: str) -> str:
    """Return a class name as the name of a folder."""
    name = "".join(sign if sign.isalnum() or sign in " ._-" else "_" for sign in class_name).strip(" .")
    return name or "_"
