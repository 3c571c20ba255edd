"""What a source holds, as far as it can be read: the form that all checks share.

Arrays have I images and N objects. An image or object that cannot be used at all is not among them: it has only a
finding.
"""

from __future__ import annotations

from array import array
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ssdlite.data.checks.findings import Finding
from ssdlite.data.coco import name_entry
from ssdlite.data.layout import CocoSource, Source
from ssdlite.errors import DataError


class Contents:
    """One source. Its lists and objects are added one by one; the arrays are made when they are first asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.findings: list[Finding] = []
        self.class_names: list[str] = []
        self.paths: list[Path] = []  # I, of the image files
        self.files: list[Path] = []  # I, of the annotations
        self.items: list[str] = []  # I, what findings call the images
        self.entries: list[Any] = []  # I: COCO's position in "images", VOC's stem
        self.sizes = np.zeros((0, 2), np.int64)  # (I, 2) height, width; 0 where the annotation does not say
        self.document: Any = None  # COCO: the parsed file
        self.categories: dict[Any, int] = {}  # COCO: index of the class name by category id
        self.lists: dict[str, str] = {}  # VOC: the list that names a stem first
        self._objects = array("d")  # eight numbers each; integers are exact up to 2^53

    def add_object(
        self, owner: int, label: int, corners: tuple[float, float, float, float], ignore: bool, position: int
    ) -> None:
        """Add an object of image `owner` and class `label`; the others as in the arrays of these names."""
        self._objects.extend((owner, label, *corners, ignore, position))

    def add_objects(self, table: np.ndarray) -> None:
        """Add (n, 8) float64 objects: image, class, x1, y1, x2, y2, ignore, position."""
        self._objects.frombytes(table.tobytes())

    @cached_property
    def _table(self) -> np.ndarray:
        return np.array(self._objects).reshape(-1, 8)

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
        """(N, 4) float64 xyxy as written."""
        return np.ascontiguousarray(self._table[:, 2:6])

    @cached_property
    def ignore(self) -> np.ndarray:
        """(N,) bool: crowd or difficult."""
        return self._table[:, 6] != 0

    @cached_property
    def positions(self) -> np.ndarray:
        """(N,) int64. COCO: position in "annotations", from 0. VOC: number of the object in its file, from 1."""
        return self._table[:, 7].astype(np.int64)

    @property
    def is_coco(self) -> bool:
        return isinstance(self.source, CocoSource)

    @property
    def file(self) -> Path:
        """Where findings about the whole are."""
        return self.source.annotations if isinstance(self.source, CocoSource) else self.source.root

    def boxes(self, corners: np.ndarray | None = None) -> np.ndarray:
        """(N, 4) float64 xyxy as the readers compute them before clipping, from `corners` (default: the file's)."""
        corners = self.corners if corners is None else corners
        if self.is_coco:
            return corners
        # VOC counts pixels from 1 and includes the last one; a point has no area, however.
        is_point = (corners[:, :2] == corners[:, 2:]).all(axis=1)
        return np.concatenate([corners[:, :2] - ~is_point[:, None], corners[:, 2:]], axis=1)

    def name_object(self, index: int) -> str:
        """What findings call an object."""
        image, position = self.items[self.owners[index]], int(self.positions[index])
        if self.is_coco:
            return f"{name_entry(self.document['annotations'][position])} of {image}"
        return f"{image} object {position} ({self.class_names[self.labels[index]]})"

    def object_file(self, index: int) -> Path:
        return self.files[self.owners[index]]

    def add(self, kind: str, item: str, text: str, file: Path | None = None) -> None:
        self.findings.append(Finding(kind, file or self.file, item, text))


def reason(error: DataError, path: Path) -> str:
    """A reader's message without the path, which a finding has by itself."""
    return str(error).removeprefix(f"{path}: ")
