"""Known amounts of memory."""

import mmap
import os
import sys

import pytest
import torch

from ssdlite.benchmark.timing import (
    added_memory,
    own_memory,
    peak_memory,
    proportional_memory,
    resident_memory,
    training_memory,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="figures of /proc")
MIB = 1 << 20


def fill(size):
    """Pages from the system, which give way when they are closed: the C library may keep what it has had."""
    with mmap.mmap(-1, size) as pages:
        for start in range(0, size, 4096):
            pages[start] = 1
        return len(pages)


@linux
def test_memory_that_work_takes_and_gives_back():
    size, added = added_memory(lambda: fill(200 * MIB))
    assert size == 200 * MIB
    assert 190 * MIB < added < 230 * MIB
    _, added = added_memory(lambda: None)  # the peak before is forgotten
    assert added < 20 * MIB


@linux
def test_what_is_shared_counts_once_or_in_part_or_whole():
    own, proportional, resident = (find(os.getpid()) for find in (own_memory, proportional_memory, resident_memory))
    assert 0 < own <= proportional <= 1.05 * resident  # they are asked one after the other
    assert resident_memory() <= peak_memory()


def test_no_figure_of_a_process_that_is_not_there():
    nobody = 2**22 + 1  # above the largest process id
    assert own_memory(nobody) is proportional_memory(nobody) is resident_memory(nobody) is None


def test_a_processor_has_no_other_memory():
    memory = training_memory(torch.device("cpu"))
    assert memory.process > 0 and memory.device is memory.reserved is None
