"""Freed memory is kept: a second round of large tensors asks the system for no page."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from ssdlite.training.process import keep_memory

if sys.argv[1] == "keep":
    assert keep_memory()
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16 << 20)  # 64 MB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def faults_of_the_last_round(mode: str) -> int:
    result = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for the C library of most Linux systems")
def test_large_tensors_are_not_given_back():
    pages = 4 * (64 << 20) // 4096
    assert faults_of_the_last_round("leave") > pages / 2
    assert faults_of_the_last_round("keep") < pages / 100
