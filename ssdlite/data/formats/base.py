"""The seam of annotation formats: what a format is, and what its reader gives.

Start with `Format`, then `Annotations`: the reader of a format adds images and objects as they are written, and
`make_split` turns them into what training takes. So a format has one parser, for training and for `check-data`.
"""

from __future__ import annotations

import gc
import logging
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

from ssdlite.data.formats.problems import Problems, StrictProblems
from ssdlite.data.records import NUM_NAMED, number_classes
from ssdlite.errors import DataError
from ssdlite.io import one_line, quoted, require_regular
from ssdlite.structures import DataSplit, ImageId, Record

logger = logging.getLogger(__name__)


Source: TypeAlias = Any
"""Place of the annotations of some images: a frozen dataclass of the format. Its fields are the options of
`data.train: {kind: NAME, ...}` (of the types Path, str, bool, int, float and tuple[str, ...]), its docstring says
what it is, and its text is what messages call it."""


S = TypeVar("S")
Box: TypeAlias = tuple[float, float, float, float]


class Found(NamedTuple):
    """Sources that a format recognises at a path."""

    title: str  # such as "Roboflow COCO"
    train: list[Source]  # empty where there is only something to evaluate on
    val: list[Source]  # empty where there is no validation set


class Format(ABC, Generic[S]):
    """One annotation format. To add one: a module with a subclass, and a line in `registry`."""

    name: str
    """`kind` of its sources in a config."""
    looked_for: str
    """Files that it is recognised by, as a part of the sentence about a path where no format is."""
    source_type: type[S]
    """Frozen dataclass of what there is to say about a source; see `Source`."""

    @abstractmethod
    def find(self, path: Path) -> Found | None:
        """Return what lies in the folder `path`, None where it is not this format.

        Raises DataError where it is this format but is ambiguous or incomplete.
        """

    def require(self, source: S) -> None:
        """Raise DataError, as reading would, where files of `source` are not there; cheaply."""
        for field in fields(self.source_type):  # type: ignore[arg-type]
            if isinstance(path := getattr(source, field.name), Path) and not path.exists():
                raise DataError(f"{path}: there is no such file or folder; check the path")

    @abstractmethod
    def read(self, source: S, problems: Problems) -> Annotations:
        """Read all of `source` that can be read, and add what is wrong with it to `problems`.

        The DataError of `problems.add` (where these are strict) is passed on. No image is opened, unless a box
        depends on it.
        """


class Annotations:
    """Annotations of one source as they are written: I images and N objects.

    A reader adds them one by one; arrays are made when they are first asked for, and do not change from then on. An
    image or object that cannot be used at all is not among them: it has only a problem.
    """

    box_form: ClassVar[Literal["xyxy", "xywh"] | None] = "xyxy"
    """Form of the four numbers in the file; None where another one cannot be taken for it."""
    counts_from_one: ClassVar[bool] = False
    """Corners are numbers of pixels, counted from 1, and the last one is inside."""

    def __init__(self, source: Source, file: Path) -> None:
        self.source = source
        self.file = file  # where problems about the whole are
        self.class_names: list[str] = []
        self.category_ids: list[int] | None = None  # of class_names, if these have an order; None: as they came
        self.paths: list[Path] = []  # I, of the image files
        self.files: list[Path] = []  # I, of the annotations
        self.items: list[str] = []  # I, what problems call the images
        self.image_ids: list[ImageId] = []  # I
        self.missing: set[Path] = set()  # image files that have a problem, by themselves or with all others
        self._labels: dict[str, int] = {}
        self._sizes = array("q")  # two numbers an image
        self._objects = array("d")  # ten numbers an object; integers are exact up to 2^53

    def add_image(
        self,
        path: Path,
        image_id: ImageId,
        size: tuple[int, int] | None = None,
        *,
        file: Path | None = None,
        item: str = "",
    ) -> int:
        """Add an image and return its index; `size` is (height, width), None where the annotation does not say.

        `file` holds its annotation (default: the source's), and problems call it `item` (default: its name).
        """
        self.paths.append(path)
        self.files.append(file or self.file)
        self.items.append(item or path.name)
        self.image_ids.append(image_id)
        self._sizes.extend(size or (0, 0))
        return len(self.paths) - 1

    def size_of(self, index: int) -> tuple[int, int]:
        """Return (height, width) of an image, while others may be added; zeros where the annotation has none."""
        return self._sizes[2 * index], self._sizes[2 * index + 1]

    def label_of(self, name: str) -> int:
        """Return the index of a class name, which is added if it is new."""
        label = self._labels.get(name)
        if label is None:
            label = self._labels[name] = len(self.class_names)
            self.class_names.append(name)
        return label

    def add_object(
        self,
        owner: int,
        label: int,
        corners: Box,
        *,
        position: int,
        ignore: bool = False,
        crowd: bool = False,
        area: float | None = None,
    ) -> None:
        """Add an object of image `owner` and class `label`; the others as in the arrays of these names."""
        area = float("nan") if area is None else area
        self._objects.extend((owner, label, *corners, position, ignore, crowd, area))

    def add_objects(self, table: np.ndarray) -> None:
        """Add (n, 10) float64 objects: image, class, x1, y1, x2, y2, position, ignore, crowd, area."""
        self._objects.frombytes(table.tobytes())

    @cached_property
    def _table(self) -> np.ndarray:
        return np.array(self._objects).reshape(-1, 10)

    @cached_property
    def sizes(self) -> np.ndarray:
        """(I, 2) int64 height, width; 0 where the annotation does not say."""
        return np.array(self._sizes, np.int64).reshape(-1, 2)

    @cached_property
    def owners(self) -> np.ndarray:
        """(N,) int64 index of each object's image."""
        return self._table[:, 0].astype(np.int64)

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64 index of the class name."""
        return self._table[:, 1].astype(np.int64)

    @cached_property
    def corners(self) -> np.ndarray:
        """(N, 4) float64 xyxy as written, whatever the boxes are worth."""
        return np.ascontiguousarray(self._table[:, 2:6])

    @cached_property
    def positions(self) -> np.ndarray:
        """(N,) int64 place of each object in its file, as the format counts."""
        return self._table[:, 6].astype(np.int64)

    @cached_property
    def ignore(self) -> np.ndarray:
        """(N,) bool: crowd or difficult."""
        return self._table[:, 7] != 0

    @cached_property
    def crowd(self) -> np.ndarray:
        """(N,) bool: those of `ignore` that cover many objects."""
        return self._table[:, 8] != 0

    @cached_property
    def areas(self) -> np.ndarray:
        """(N,) float64, pixels²: the annotation's own; NaN, negative or infinite where it says nothing."""
        return self._table[:, 9]

    def boxes(self, corners: np.ndarray | None = None) -> np.ndarray:
        """Return (N, 4) float64 xyxy before clipping, from `corners` (default: the file's)."""
        corners = self.corners if corners is None else corners
        if not self.counts_from_one:
            return corners
        # A box of one pixel is a slip of the mouse and has no area; one side of a single pixel is legal.
        is_point = (corners[:, :2] == corners[:, 2:]).all(axis=1)
        return np.concatenate([corners[:, :2] - ~is_point[:, None], corners[:, 2:]], axis=1)

    def name_object(self, index: int, *, with_id: bool = True) -> str:
        """Return what problems call an object; `with_id` matters where a file has ids besides names of images."""
        owner, name = self.owners[index], self.class_names[self.labels[index]]
        return f"{self.items[owner]} object {int(self.positions[index])} ({name})"


@contextmanager
def without_collector() -> Iterator[None]:
    """Read without looking for garbage: among millions of objects that all stay it more than doubles the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def clip_boxes(boxes: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clip (N, 4) float64 xyxy to (N, 4) width, height, width, height.

    Returns (N, 4) float32, and (N,) bool: those to keep, which are finite and have an area. A box of no width would
    regress to log(0), an inverted one to NaN.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        clipped = np.clip(boxes, 0, limits).astype(np.float32)
        kept = np.isfinite(boxes).all(axis=1) & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    return clipped, kept


def make_split(annotations: Annotations, problems: StrictProblems) -> DataSplit:
    """Return the images and objects of `annotations`, which were read without an error.

    Classes without an order of their own are sorted, with the numbers 1..K. Sizes that the annotations lack are
    read from the images. Boxes are clipped; those without area are left out, and said once in the log with what
    `problems` has left out. Raises DataError for an image without a size that cannot be read.
    """
    names = tuple(annotations.class_names)
    order = np.arange(1, len(names) + 1)  # label of each class name
    if annotations.category_ids is None:
        names = tuple(sorted(names))
        position = {name: label for label, name in enumerate(names, 1)}
        order = np.array([position[name] for name in annotations.class_names], np.int64)
        category_ids = number_classes(names, {})
    else:
        category_ids = tuple(annotations.category_ids)
    sizes = _complete_sizes(annotations)
    raw = annotations.boxes()
    boxes, kept = clip_boxes(raw, sizes[annotations.owners][:, [1, 0, 1, 0]])
    by_image = np.argsort(annotations.owners, kind="stable")
    left_out = list(problems.left_out)
    for index in by_image[~kept[by_image]].tolist():
        height, width = sizes[annotations.owners[index]].tolist()
        coordinates = ", ".join(f"{value:g}" for value in raw[index])
        where = annotations.name_object(index, with_id=False)
        left_out.append(f"{where} has the box ({coordinates}) in an image of {width}x{height}")
    _report_left_out(annotations.file, left_out)
    chosen = by_image[kept[by_image]]
    boxes = boxes[chosen]
    box_areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    areas = annotations.areas[chosen]
    is_area = (areas >= 0) & (areas <= np.finfo(np.float32).max)
    areas = np.where(is_area, areas, box_areas).astype(np.float32)
    labels = order[annotations.labels[chosen]]
    ignore, crowd = annotations.ignore[chosen], annotations.crowd[chosen]
    ends = np.searchsorted(annotations.owners[chosen], np.arange(len(annotations.paths)), side="right").tolist()
    records = []
    start = 0
    for path, image_id, (height, width), end in zip(
        annotations.paths, annotations.image_ids, sizes.tolist(), ends, strict=True
    ):
        part = slice(start, end)
        records.append(
            Record(
                image_path=path,
                image_id=image_id,
                size=(height, width),
                boxes=boxes[part],
                labels=labels[part],
                ignore=ignore[part],
                crowd=crowd[part],
                areas=areas[part],
            )
        )
        start = end
    return DataSplit(records, names, category_ids)


def _complete_sizes(annotations: Annotations) -> np.ndarray:
    """(I, 2) height, width: the annotations', otherwise the images'."""
    from ssdlite.data.images import image_size  # here, because OpenCV takes a tenth of a second

    sizes = annotations.sizes.copy()
    for index in np.flatnonzero((sizes == 0).any(axis=1)).tolist():
        sizes[index] = image_size(annotations.paths[index])
    return sizes


def _report_left_out(file: Path, left_out: Sequence[str]) -> None:
    """Say once what was left out of a source, naming the first few items."""
    if not left_out:
        return
    more = len(left_out) - NUM_NAMED
    tail = f"; and {more} more" if more > 0 else ""
    listed = "; ".join(map(one_line, left_out[:NUM_NAMED]))
    logger.warning("%s: left out %d unusable objects: %s%s", file, len(left_out), listed, tail)


def find_missing_images(annotations: Annotations, problems: Problems) -> None:
    """Add a problem for each image of `annotations` that is not there; none is opened."""
    from ssdlite.data.images import missing_images

    file = annotations.file
    try:
        absent = missing_images(annotations.paths)
    except OSError as error:
        annotations.missing.update(annotations.paths)
        message = f"{file}: the images in {quoted(str(error.filename))} cannot be listed ({error.strerror})"
        text = f"the images cannot be listed ({error.strerror})"
        problems.add("image-folder-missing", file, text, message=message)
        return
    if not absent:
        return
    annotations.missing.update(absent)
    message = (
        f"{file}: {len(absent)} of its {len(annotations.paths)} images are not there, the first is {absent[0]}; "
        "check the images folder"
    )
    for path, item in zip(annotations.paths, annotations.items, strict=True):
        if path in annotations.missing:
            text = "the image is not there; add it or take it out"
            problems.add("image-missing", path, text, item=item, message=message)


def require_folder(images_dir: Path) -> None:
    """Raise DataError unless a folder is at `images_dir`."""
    try:
        if not images_dir.is_dir():
            raise DataError(f"{images_dir}: there is no such folder of images; check the path")
    except OSError as error:
        raise DataError(f"{images_dir}: the folder cannot be opened ({error.strerror}); check the path") from error


def require_file(path: Path) -> None:
    """Raise DataError unless an annotation file is at `path`."""
    try:
        require_regular(path)
    except OSError as error:
        raise unopened(path, error) from error


def unopened(path: Path, error: OSError) -> DataError:
    """Return the error of an annotation file that cannot be opened."""
    return DataError(f"{path}: the annotations cannot be opened ({error.strerror}); check the path")
