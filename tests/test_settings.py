"""The variables that choose what a machine would: threads, precision, order. See `tests/conftest.py`."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssdlite.build.training import build_dtype
from ssdlite.training.optim import choose_precision
from tests import conftest
from tests.settings import sitecustomize

CHOICE = "import torch; from ssdlite.training.optim import choose_precision as c; print(c(torch.device('cpu')))"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_process_of_its_own_chooses_the_precision_that_is_asked_for(precision):
    search_path = os.pathsep.join([str(Path(sitecustomize.__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": search_path, "SSDLITE_TEST_PRECISION": precision}
    result = subprocess.run([sys.executable, "-c", CHOICE], capture_output=True, text=True, env=environment)
    assert result.stdout == f"{precision}\n", result.stderr


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="SSDLITE_TEST_PRECISION is fp32 or bf16, not 'fp8'"):
        sitecustomize.pretend("fp8")


def test_this_process_has_what_is_asked_for():
    assert torch.get_num_threads() == conftest.THREADS
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[
        conftest.PRECISION or choose_precision(torch.device("cpu"))
    ]
    assert build_dtype("auto", torch.device("cpu")) == dtype


def order(monkeypatch, seed):
    """The numbers of 40 tests of 4 files, as they would run."""
    monkeypatch.setattr(conftest, "SEED", seed)
    unmarked = {"get_closest_marker": lambda name: None}
    items = [SimpleNamespace(path=number // 10, number=number, **unmarked) for number in range(40)]
    conftest.pytest_collection_modifyitems(items)
    return [item.number for item in items]


def test_a_seed_shuffles_files_and_the_tests_of_each(monkeypatch):
    assert order(monkeypatch, None) == list(range(40))
    shuffled = order(monkeypatch, "1")
    assert sorted(shuffled) == list(range(40))
    files = np.array(shuffled).reshape(4, 10) // 10
    assert (files == files[:, :1]).all() and files[:, 0].tolist() != [0, 1, 2, 3]  # a file's tests stay together
    assert all(list(row) != sorted(row) for row in np.array(shuffled).reshape(4, 10))
    assert order(monkeypatch, "1") == shuffled != order(monkeypatch, "2")
