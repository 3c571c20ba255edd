"""What all tests of broken input ask for: one sentence, soon, and nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ssdlite.errors import UserError
from ssdlite.io import is_usable

LONGEST = 2000  # characters of a sentence, whatever the file says
PATIENCE = 60.0  # seconds: the first import of PyTorch on a busy machine takes ten


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A reader that waits for ever ends in an error that is no UserError."""

    def stop(*_: object) -> None:
        raise TimeoutError("the reader hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 20 * PATIENCE if "SSDLITE_FUZZ_EXAMPLES" in os.environ else PATIENCE)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def assert_sentence(error: BaseException, *words: str | Path) -> None:
    """That a person can read it, and that it says all of `words`."""
    text = str(error)
    assert text and is_usable(text), text
    assert len(text) < LONGEST, text
    for word in words:
        assert str(word) in text, f"{word} is not in: {text}"


def assert_refused(read: Callable[[], Any], *words: str | Path) -> None:
    """That `read` raises a UserError of one sentence that says all of `words`."""
    with pytest.raises(UserError) as caught:
        read()
    assert_sentence(caught.value, *words)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
