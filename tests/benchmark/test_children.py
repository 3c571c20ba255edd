"""Objects in other processes."""

import math
import multiprocessing
import os

import numpy as np
import pytest

from ssdlite.benchmark.children import Child, in_child
from ssdlite.benchmark.timing import peak_memory
from ssdlite.config.schema import parse_options
from ssdlite.errors import ConfigError, UserError
from ssdlite.io import require_writable


def test_an_object_keeps_its_state_elsewhere():
    with Child(list, [1]) as child:
        child.call("append", 2)
        assert child.call("__len__") == 2
        assert child.call("copy") == [1, 2]
        assert child.process.pid != os.getpid()
    assert not child.process.is_alive()


def test_errors_of_users_come_back_as_they_are(tmp_path):
    with pytest.raises(UserError, match="it is a folder"):
        in_child(require_writable, tmp_path)
    with pytest.raises(ConfigError):
        in_child(parse_options, ["nonsense"])


def test_other_errors_come_back_with_their_text():
    with pytest.raises(RuntimeError, match="ValueError"):
        in_child(math.sqrt, -1)


def test_an_object_that_cannot_be_made():
    with pytest.raises(RuntimeError, match="TypeError"):
        Child(list, 1)


def test_a_process_that_dies_is_an_error():
    with pytest.raises(UserError, match="exit code 3"):
        in_child(os._exit, 3)


def test_its_own_processes_start_as_ours():
    assert in_child(multiprocessing.get_start_method) == multiprocessing.get_start_method()


def test_our_memory_is_not_its_own():
    ours = np.ones(1 << 30, np.uint8)  # more than all imports
    assert in_child(peak_memory) < len(ours)
