"""Images decoded and shrunk once: a cache between the readers and the augmentation.

What is kept of an image is its form: for recipes that cut windows out a copy with a bounded long side, for the
others the network's input itself, so that validation and plain training see the same pixels to the bit with a cache
and without one. `MemoryCache` is shared by the loader's workers and ends with the process; `DiskCache` is a folder
that any number of workers, processes and runs share.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import multiprocessing
import os
import secrets
import shutil
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import cv2
import numpy as np
from torch.utils.data import get_worker_info

from ssdlite.data.images import read_annotated, resize
from ssdlite.data.transforms import AugmentationName
from ssdlite.errors import ConfigError
from ssdlite.machine import available_memory
from ssdlite.structures import DataSplit, Record, ResizeAlignment

logger = logging.getLogger(__name__)


CacheKind: TypeAlias = Literal["none", "memory", "disk"]


CROP_SIDE = 1.5
"""Default long side of what windows are cut out of, over that of the network's input. SSD's crops have .3 to 1 of
the image's side: at 1.5 the mean one (.65) is as fine as the input, and smaller ones, which a COCO image (2.1)
would still fill, are enlarged. At 2 a cache takes 1.7 times the memory."""


MEMORY_SHARE = 0.5  # of what is available: the network, the workers and the page cache need the rest


MEGABYTE = 1_000_000


DAY = 24 * 3600.0  # seconds


class Form(Protocol):
    """Form in which an image is kept. Its `repr` is part of a file's name, so a change of it makes another file."""

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of what is kept of an image of `size`."""
        ...

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (*size_of((H, W)), 3) uint8."""
        ...


@dataclass(frozen=True)
class LongSide:
    """The whole image with a long side of at most `pixels`, averaged down, never enlarged."""

    pixels: int

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        scale = min(1.0, self.pixels / max(size))
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = self.size_of(image.shape[:2])
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class NetworkInput:
    """The image as the recipes without windows resize it. To do so once more changes nothing."""

    size: tuple[int, int]  # (height, width)
    alignment: ResizeAlignment = "half_pixel"

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.size

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return resize(image, self.size, self.alignment)


class ImageCache(Protocol):
    """Gives the images of one split in one form."""

    def read(self, index: int, record: Record) -> np.ndarray:
        """(H, W, 3) uint8 RGB of the split's record `index`, not to be written to.

        Raises DataError as `read_annotated`.
        """
        ...

    def check_workers(self, workers: int) -> None:
        """Raise ConfigError where that many loader processes cannot use this cache."""
        ...


def build_cache(
    kind: CacheKind,
    split: DataSplit,
    form: Form,
    *,
    folder: Path,
    processes: int = 1,
    reserved: int = 0,
) -> MemoryCache | DiskCache | None:
    """The cache of `kind` for the images of `split` in `form`; None for `none`.

    `folder` is for `disk`, `processes` and `reserved` are for `memory`. Raises ConfigError where there is no
    room, as `MemoryCache` and `DiskCache` say.
    """
    match kind:
        case "none":
            return None
        case "memory":
            sizes = [form.size_of(record.size) for record in split.records]
            return MemoryCache(sizes, form, processes=processes, reserved=reserved)
        case "disk":
            return DiskCache(folder, split.records, form)


def choose_form(
    augmentation: AugmentationName,
    size: tuple[int, int],
    alignment: ResizeAlignment = "half_pixel",
    max_side: int | None = None,
) -> Form:
    """Return the form to keep for a recipe at the network's input `size` (height, width).

    `max_side`, by default 1.5 times the longer side of `size`, is for the recipes that cut windows out.
    """
    if augmentation in ("flip", "none"):
        return NetworkInput(size, alignment)
    return LongSide(max_side or round(CROP_SIDE * max(size)))


class MemoryCache:
    """Images in memory that this process shares with the workers that it forks, whoever decodes them first.

    `sizes` are those of the split's images in `form`. `processes` training processes of this machine have a copy
    each, and `reserved` bytes are meant for other caches. Sources are trusted while the process runs.

    Raises ConfigError if the images do not fit in half of the memory that is available.
    """

    def __init__(
        self, sizes: Sequence[tuple[int, int]], form: Form, *, processes: int = 1, reserved: int = 0
    ) -> None:
        self.form = form
        self.processes = processes
        self.shapes = [(height, width, 3) for height, width in sizes]
        self.starts = np.cumsum([0, *(height * width * 3 for height, width in sizes)])
        self.num_bytes = int(self.starts[-1])
        bound = int(available_memory() * MEMORY_SHARE)
        wanted = self.num_bytes * processes + reserved
        if bound and wanted > bound:
            raise ConfigError(
                f"data.cache=memory needs {_megabytes(wanted)} MB for {len(sizes)} images, and half of the memory "
                f"that is available is {_megabytes(bound)} MB; set data.cache=disk, or a smaller data.cache_side."
            )
        logger.info("cache: %d images, %d MB of memory", len(sizes), _megabytes(self.num_bytes))
        # Anonymous and shared: forked workers write to the same pages, which exist from their first use on.
        memory = np.frombuffer(mmap.mmap(-1, max(1, self.num_bytes + len(sizes))), np.uint8)
        self._pixels, self._filled = memory[: self.num_bytes], memory[self.num_bytes :]

    def read(self, index: int, record: Record) -> np.ndarray:
        slot = self._pixels[self.starts[index] : self.starts[index + 1]].reshape(self.shapes[index])
        if not self._filled[index]:
            # No lock: two workers with one image write the same bytes. The flag comes last, and an index comes back
            # in another epoch only, after messages through the main process, which order what processors see.
            slot[...] = self.form(read_annotated(record))
            self._filled[index] = 1
        slot.flags.writeable = False
        return slot

    def check_workers(self, workers: int) -> None:
        if workers and multiprocessing.get_start_method() != "fork":
            raise ConfigError(
                "data.cache=memory is shared with loader processes by forking, and here they are started by "
                f"'{multiprocessing.get_start_method()}'; set data.cache=disk, or data.workers=0."
            )


def memory_of(cache: ImageCache | None) -> int:
    """Bytes of this machine's memory that a cache takes when it is full."""
    return cache.num_bytes * cache.processes if isinstance(cache, MemoryCache) else 0


class DiskCache:
    """One file an image in `folder`, of raw pixels, shared by workers, processes and runs.

    A file is named after the absolute path, length and time of change of its source and after the form, so a source
    that changed has another. It is written under another name and renamed: a process that is killed leaves whole
    files and, for a day, temporary ones. Files of sources or forms that are no longer used stay until the folder is
    deleted. Where it cannot be written, a warning is given and images are decoded as without a cache.

    Raises ConfigError if the images of `records` that are not there yet exceed the free space.
    """

    HEADER = struct.Struct("<8sII")  # signature, height, width
    SIGNATURE = b"ssdlite1"

    def __init__(self, folder: Path, records: Sequence[Record], form: Form) -> None:
        self.folder = folder.absolute()
        self.form = form
        self._salt = f"{form!r} {cv2.__version__}"  # another OpenCV may round differently
        self._writable = True
        total = sum(self._length(record) for record in records)
        logger.info("cache: up to %d MB in %s for %d images", _megabytes(total), folder, len(records))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            self._give_up(error)
            return
        if total > free:
            missing = sum(self._length(record) for record in records if not self._is_there(record))
            if missing > free:
                raise ConfigError(
                    f"data.cache=disk needs {_megabytes(missing)} MB more, and {folder} has {_megabytes(free)} MB "
                    "free; set data.cache_dir to a larger disk, or a smaller data.cache_side."
                )

    def read(self, index: int, record: Record) -> np.ndarray:
        path = self._path(record)
        image = self._load(path, self.form.size_of(record.size)) if path else None
        if image is None:
            image = self.form(read_annotated(record))
            if path and self._writable:
                self._store(path, image)
        image.flags.writeable = False
        return image

    def check_workers(self, workers: int) -> None:
        """Any number will do."""

    def _path(self, record: Record) -> Path | None:
        """Return the file that the image of `record` has in the cache or would have; None if its source is not
        there."""
        try:
            source = record.image_path.stat()
        except OSError:
            return None
        # The annotated size decides which way up a photograph is read.
        known = (record.image_path.absolute(), source.st_size, source.st_mtime_ns, record.size, self._salt)
        digest = hashlib.blake2b(repr(known).encode(), digest_size=16).hexdigest()
        return self.folder / digest[:2] / digest[2:]  # 256 folders, so that none is long

    def _length(self, record: Record) -> int:
        height, width = self.form.size_of(record.size)
        return self.HEADER.size + height * width * 3

    def _is_there(self, record: Record) -> bool:
        path = self._path(record)
        return path is not None and path.is_file()

    def _load(self, path: Path, size: tuple[int, int]) -> np.ndarray | None:
        """The image of `size` in a file; None if there is none, or not such a one."""
        try:
            data = np.fromfile(path, np.uint8)
        except OSError:
            return None
        start = self.HEADER.size
        if len(data) != start + size[0] * size[1] * 3:
            return None
        if data[:start].tobytes() != self.HEADER.pack(self.SIGNATURE, *size):
            return None
        return data[start:].reshape(*size, 3)

    def _store(self, path: Path, image: np.ndarray) -> None:
        temporary = self.folder / f"{os.getpid()}-{secrets.token_hex(8)}.tmp"
        try:
            path.parent.mkdir(exist_ok=True)
            with temporary.open("xb") as file:
                file.write(self.HEADER.pack(self.SIGNATURE, *image.shape[:2]))
                file.write(np.ascontiguousarray(image).data)
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Write no more. Of a loader's workers the first speaks for all."""
        self._writable = False
        worker = get_worker_info()
        if worker is None or worker.id == 0:
            logger.warning(
                "%s: the cache cannot be written (%s); images that are not in it are decoded each time",
                self.folder,
                error.strerror or error,
            )

    def _remove_leftovers(self) -> None:
        """Temporary files of processes that were killed; a day old, none is still being written."""
        for path in self.folder.glob("*.tmp"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - DAY:
                    path.unlink()


def _megabytes(count: int) -> int:
    return -(-count // MEGABYTE)
