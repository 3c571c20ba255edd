"""Reading, finding and what comes after it side by side: sources in, predictions out, in their order."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeAlias

import numpy as np

from ssdlite.errors import DataError
from ssdlite.inference.frames import Frame, Prediction, Source
from ssdlite.inference.images import Finder, Prepared
from ssdlite.inference.video import silent
from ssdlite.structures import Detections

logger = logging.getLogger(__name__)


POLL = 0.1  # seconds between two looks at whether to stop


GRACE = 2.0  # seconds beyond a source's patience, since OpenCV notices silence itself


class _Read(NamedTuple):
    """A frame that was read and brought to the network's input."""

    frame: Frame
    image: np.ndarray
    prepared: Prepared


_Found: TypeAlias = "list[tuple[_Read, Detections]]"


class Pipeline:
    """Iterating gives the Prediction of every readable picture of `sources`, in order.

    One thread goes through the sources and hands on frames; `num_readers` threads decode pictures and resize them;
    `num_finders` threads run the network, each on a batch of its own; whoever iterates draws and writes meanwhile.
    All of that leaves Python's lock alone for most of the time. Few batches are under way at once, so memory is
    bounded, and a live source loses the frames that find no place instead of falling behind.

    What cannot be read is left out with a warning; a live source that fails or falls silent raises DataError.

    Args:
        sources: in the order to be gone through.
        finder: its `batch_size` frames are taken together.
        stopped: asked again and again; iteration ends soon after it says so.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        finder: Finder,
        *,
        num_readers: int = 1,
        num_finders: int = 1,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sources = sources
        self.finder = finder
        self.stopped = stopped
        self.num_dropped = 0
        """Frames of a live source that there was no time for."""
        self.num_unreadable = 0
        """Pictures that were left out."""
        self._reading = ThreadPoolExecutor(num_readers, "ssdlite-read")
        self._finding = ThreadPoolExecutor(num_finders, "ssdlite-find")
        # One batch more than is being worked on: whoever asks next need not wait for a frame to be read.
        self._batches: queue.Queue[Future[_Found] | Exception | None] = queue.Queue(num_finders + 1)
        self._abandoned = threading.Event()
        self._counting = threading.Lock()

    def __iter__(self) -> Iterator[Prediction]:
        threading.Thread(target=self._feed, name="ssdlite-feed", daemon=True).start()
        try:
            while (batch := self._next_batch()) is not None:
                for read, detections in batch:
                    yield Prediction(read.frame, read.image, detections)
        finally:
            self._abandoned.set()
            self._reading.shutdown(wait=False, cancel_futures=True)
            self._finding.shutdown(wait=False, cancel_futures=True)

    def _next_batch(self) -> _Found | None:
        """Return the detections of the next batch; None after the last one, or when asked to stop."""
        waited_since = time.monotonic()
        while not self.stopped():
            try:
                item = self._batches.get(timeout=POLL)
            except queue.Empty:
                self._require_life(time.monotonic() - waited_since)
                continue
            if isinstance(item, Exception):
                raise item
            return item.result() if item is not None else None
        return None

    def _require_life(self, waited: float) -> None:
        """Raise DataError if a live source has been silent for too long, whatever OpenCV does about it."""
        patience = self.sources[0].patience if self.sources else None
        if patience is not None and waited > patience + GRACE:
            raise silent(self.sources[0].name, patience)

    def _feed(self) -> None:
        """Go through the sources; runs in a thread of its own, which may be left behind waiting for a dead one."""
        last: Exception | None = None
        try:
            frames = self._frames()
            while group := list(islice(frames, self.finder.batch_size)):
                self._submit(group)
        except Exception as error:  # it is raised where someone can see it
            last = error
        self._put(last)

    def _frames(self) -> Iterator[Frame]:
        for source in self.sources:
            try:
                for frame in source:
                    if self._abandoned.is_set():
                        return
                    yield frame
            except DataError as error:
                if source.patience is not None:
                    raise
                self._leave_out(error)

    def _submit(self, group: list[Frame]) -> None:
        is_live = group[0].source.patience is not None
        if is_live and self._batches.full():  # no other thread fills it
            self.num_dropped += len(group)
            return
        try:
            reads = [self._reading.submit(self._read, frame) for frame in group]
            self._put(self._finding.submit(self._find, reads))
        except RuntimeError:  # the pools were shut down meanwhile
            assert self._abandoned.is_set()

    def _put(self, item: Future[_Found] | Exception | None) -> None:
        while not self._abandoned.is_set():
            try:
                self._batches.put(item, timeout=POLL)
            except queue.Full:
                continue
            return

    def _read(self, frame: Frame) -> _Read | None:
        try:
            image = frame.read()
        except DataError as error:
            self._leave_out(error)
            return None
        return _Read(frame, image, self.finder.prepare(image))

    def _find(self, reads: Sequence[Future[_Read | None]]) -> _Found:
        done = [read for future in reads if (read := future.result()) is not None]
        return list(zip(done, self.finder.find([read.prepared for read in done]), strict=True))

    def _leave_out(self, error: DataError) -> None:
        with self._counting:
            self.num_unreadable += 1
        logger.warning("left out: %s", error)
