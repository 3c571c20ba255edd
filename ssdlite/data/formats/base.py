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

from ssdlite.data.formats.folders import ImageIndex, Seen
from ssdlite.data.formats.problems import ITEMS, REPAIRS, Problems, StrictProblems
from ssdlite.data.records import NUM_NAMED, number_classes
from ssdlite.errors import DataError
from ssdlite.io import one_line, quoted, require_regular
from ssdlite.structures import DataSplit, ImageId, Record

logger = logging.getLogger(__name__)


Source: TypeAlias = Any
"""Place of the annotations of some images: a frozen dataclass of the format. Its fields are the options of
`data.train: {kind: NAME, ...}` (of the types Path, str, bool, int, float and tuple[str, ...]), its docstring says
what it is, and its text is what messages call it."""


MOST_LOST = 0.5  # of the images of a source may be missing, and are left out


OVERHANG = 1.0  # pixels that a box may reach out of its image: some tools count from 1


S = TypeVar("S")
Box: TypeAlias = tuple[float, float, float, float]


class Found(NamedTuple):
    """Sources that a format recognises at a path."""

    title: str  # such as "Roboflow COCO"
    train: list[Source]  # empty where there is only something to evaluate on
    val: list[Source]  # empty where there is no validation set
    test: list[Source] = []  # noqa: RUF012 (never changed)
    remarks: tuple[str, ...] = ()  # sentences about what is named and not there


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
        """Return what lies at `path`, None where it is not this format.

        `path` is a folder, which may hold a folder for each split, or an annotation file, which is the training
        set. Cheap: a glance at names and first lines. Raises DataError where it is this format but is ambiguous or
        incomplete.
        """

    def explain(self, seen: Seen) -> tuple[int, str] | None:
        """Return how many files of an unrecognised folder look like this format, and a sentence that says why it is
        not this format and which options would read it; None where nothing looks like it."""
        return None

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

    box_form: Literal["xyxy", "xywh"] | None = "xyxy"
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

    def set_size(self, index: int, size: tuple[int, int]) -> None:
        """Set (height, width) of an image, while others may be added."""
        self._sizes[2 * index : 2 * index + 2] = array("q", size)

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
    read from the images, and images whose size cannot be known are left out. Boxes are clipped; those without area
    are left out. Each kind of change is said once in the log, with what `problems` has left out. Raises DataError
    where most images cannot be read.
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
    raw = annotations.boxes()
    sizes, is_usable = _settle_sizes(annotations, raw, problems)
    boxes, kept = clip_boxes(raw, sizes[annotations.owners][:, [1, 0, 1, 0]])
    kept |= ~is_usable[annotations.owners]  # they go with their images
    by_image = np.argsort(annotations.owners, kind="stable")
    left_out = list(problems.left_out)
    for index in by_image[~kept[by_image]].tolist():
        height, width = sizes[annotations.owners[index]].tolist()
        coordinates = ", ".join(f"{value:g}" for value in raw[index])
        where = annotations.name_object(index, with_id=False)
        left_out.append(f"{where} has the box ({coordinates}) in an image of {width}x{height}")
    _report_left_out(annotations.file, left_out)
    _report_repairs(annotations.file, problems)
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
    for path, image_id, (height, width), end, usable in zip(
        annotations.paths, annotations.image_ids, sizes.tolist(), ends, is_usable.tolist(), strict=True
    ):
        part = slice(start, end)
        start = end
        if not usable:
            continue
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
    return DataSplit(records, names, category_ids)


def _settle_sizes(
    annotations: Annotations, boxes: np.ndarray, problems: StrictProblems
) -> tuple[np.ndarray, np.ndarray]:
    """(I, 2) height, width: the annotations', otherwise the images'; and (I,) bool, images whose size is known.

    An annotated size out of which boxes reach gives way to the image's, if they all fit that one.
    """
    from ssdlite.data.headers import read_headers  # here, because OpenCV takes a tenth of a second

    sizes = annotations.sizes.copy()
    unknown = (sizes == 0).any(axis=1)
    reach = np.zeros((len(sizes), 2))  # of the boxes of an image, to the right and down
    with np.errstate(invalid="ignore"):
        np.maximum.at(reach, annotations.owners, np.nan_to_num(boxes[:, 2:], nan=0, posinf=0, neginf=0))
    reaches_out = (reach > sizes[:, ::-1] + OVERHANG).any(axis=1) & ~unknown
    asked = np.flatnonzero(unknown | reaches_out).tolist()
    headers = read_headers(annotations.paths[index] for index in asked)
    is_usable = np.ones(len(sizes), bool)
    for index in asked:
        header = headers[annotations.paths[index]]
        if unknown[index]:
            sizes[index] = header.height, header.width
            if not header.usable:
                is_usable[index] = False
                problems.repair(f"image-{header.state}", annotations.paths[index].name)
            continue
        height, width = sizes[index].tolist()
        is_other = header.usable and not header.fits((height, width))
        if is_other and (reach[index] <= (header.width + OVERHANG, header.height + OVERHANG)).all():
            sizes[index] = header.height, header.width
            problems.repair("size-mismatch", annotations.items[index])
    num_lost = int((~is_usable).sum())
    if num_lost and num_lost > MOST_LOST * len(sizes):
        first = annotations.paths[int(np.flatnonzero(~is_usable)[0])]
        raise DataError(
            f"{annotations.file}: {num_lost} of its {len(sizes)} images cannot be read, the first is {first}; "
            "check the images folder"
        )
    return sizes, is_usable


def _report_left_out(file: Path, left_out: Sequence[str]) -> None:
    """Say once what was left out of a source, naming the first few items."""
    if not left_out:
        return
    more = len(left_out) - NUM_NAMED
    tail = f"; and {more} more" if more > 0 else ""
    listed = "; ".join(map(one_line, left_out[:NUM_NAMED]))
    logger.warning("%s: left out %d unusable objects: %s%s", file, len(left_out), listed, tail)


def _report_repairs(file: Path, problems: StrictProblems) -> None:
    """Say once for each kind what was left out or changed, naming the first few items."""
    for kind, items in problems.repairs.items():
        one, several = ITEMS[kind]
        count = f"{len(items)} {one if len(items) == 1 else several}"
        more = f"; and {len(items) - NUM_NAMED} more" if len(items) > NUM_NAMED else ""
        listed = "; ".join(map(one_line, items[:NUM_NAMED]))
        logger.warning("%s: %s: %s%s", file, REPAIRS[kind].format(count), listed, more)


def require_most(annotations: Annotations, num_lost: int, message: str, problems: Problems) -> None:
    """Add an error where no image is left, or where more were lost than are there; `message` is about the first."""
    num_all = len(annotations.paths) + num_lost
    if num_lost and num_lost > MOST_LOST * num_all:
        text = f"{num_lost} of its {num_all} images cannot be used; check the images folder"
        kind = "images-unusable"
        if not annotations.paths:
            kind, text = "no-images", "no image of it can be used; add images, or name another data set"
        problems.add(kind, annotations.file, text, item=str(annotations.source), message=message)


def find_missing_images(annotations: Annotations, problems: Problems, look_in: Path | None = None) -> None:
    """Add a problem for each image of `annotations` that is not there, and one where most are not.

    One that lies under `look_in` with another spelling, suffix or folder is taken, which is a problem too.

    None is opened. Training leaves them out when it looks at the images (see `data.settle`).
    """
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
    if absent and look_in is not None:
        absent = _find_elsewhere(annotations, set(absent), look_in, problems)
    if not absent:
        return
    annotations.missing.update(absent)
    message = (
        f"{file}: {len(absent)} of its {len(annotations.paths)} images are not there, the first is {absent[0]}; "
        "check the images folder"
    )
    if len(absent) > MOST_LOST * len(annotations.paths):
        text = f"{len(absent)} of its {len(annotations.paths)} images are not there; check the images folder"
        problems.add("images-unusable", file, text, message=message)
    for path, item in zip(annotations.paths, annotations.items, strict=True):
        if path in annotations.missing and not problems.strict:
            problems.add("image-missing", path, "the image is not there, and is left out", item=item)


def _find_elsewhere(annotations: Annotations, absent: set[Path], folder: Path, problems: Problems) -> list[Path]:
    """Take the images that are in `folder` under another spelling; return those of `absent` that are not."""
    index = ImageIndex([folder])
    taken = set(annotations.paths) - absent
    for number, path in enumerate(annotations.paths):
        if path in absent and (other := index.of_name(str(path))) and other not in taken:
            annotations.paths[number] = other
            taken.add(other)
            text = f"the file {path.name} is not there, and {other.relative_to(folder)} is taken"
            problems.add("image-respelt", annotations.files[number], text, item=annotations.items[number])
    return [path for path in annotations.paths if path in absent]


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
