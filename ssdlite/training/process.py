"""The process that trains: Ctrl-C and SIGTERM as a request to save and leave, and how its memory is handed out."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import signal
from pathlib import Path
from types import FrameType

logger = logging.getLogger(__name__)


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Within this context the first signal sets `requested`; a second one ends the process as usual.

    `answer` is what a person is told to happen next.
    """

    def __init__(self, answer: str = "saving after this step") -> None:
        self.answer = answer
        self.requested = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupt:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()
        logger.warning("%s: %s (again to leave at once).", signal.Signals(number).name, self.answer)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()


# Of <malloc.h> and <sys/mman.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


MADV_HUGEPAGE = 14


GROWTH = 64 << 20  # bytes that the heap grows by


PAGE = 4096


def keep_memory() -> bool:
    """Keep memory that is freed for what comes next, in huge pages; whether that could be arranged.

    glibc gives tensors of more than 32 MB back to the system when they are freed, asks for them again in the next
    step, and the system clears each page of 4 KB on its own: a quarter of a training step's time. Here everything
    comes from one heap that only grows, so the process keeps the most memory that it ever had. Linux with glibc;
    elsewhere nothing happens.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    kept = all(
        libc.mallopt(option, value) == 1
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, GROWTH))
    )
    if _addresses_are_scarce():
        return kept
    # Half of the memory, of which nothing is touched: only addresses, which all that is asked for later comes from.
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    block = libc.malloc(size)
    if block:
        start = -(-block // PAGE) * PAGE
        libc.madvise(start, (block + size - start) // PAGE * PAGE, MADV_HUGEPAGE)
        libc.free(block)
    return kept


def _addresses_are_scarce() -> bool:
    """Return whether what is asked for counts although it is not touched: `ulimit -v` or -d, or strict
    overcommitment."""
    import resource  # not on Windows

    limits = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    if any(limit != resource.RLIM_INFINITY for limit in limits):
        return True
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip() == "2"
    except OSError:
        return False
