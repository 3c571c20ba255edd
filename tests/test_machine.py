from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssdlite import machine
from ssdlite.machine import available_memory, cores_of_each, usable_cores


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of made-up control groups, where the limits of a container are seen."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "self").write_text("12:cpu:/old\n0::/host/of/container\n")
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "self")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 16, raising=False)
    return tmp_path / "cgroup"


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 16), ("200000 100000", 2), ("150000 50000", 3), ("20000 100000", 1)]
)
def test_a_quota_of_processor_time_limits_the_cores(group: Path, quota: str, cores: int) -> None:
    (group / "cpu.max").write_text(quota + "\n")
    assert usable_cores() == cores


def test_the_narrowest_of_nested_groups_counts(group: Path) -> None:
    (group / "host/of/container").mkdir(parents=True)
    (group / "host/of/container/cpu.max").write_text("max 100000")
    (group / "host/cpu.max").write_text("400000 100000")
    assert usable_cores() == 4


def test_without_groups_the_affinity_counts(group: Path) -> None:
    assert usable_cores() == 16
    machine.MEMBERSHIP.unlink()
    assert usable_cores() == 16


@pytest.mark.parametrize(
    ("launcher", "own", "quota", "cores"),
    [
        (192, 192, None, 24),  # shared by all
        (192, 24, None, 24),  # each bound to its own
        (192, 96, None, 24),  # four of the eight bound to each of two NUMA nodes
        (192, 24, 64, 8),  # and a container's quota of 64, for all of them
        (192, 24, 4, 0),
        (16, 16, None, 2),  # a container with 16 cores of the machine
        (16, 2, None, 2),
    ],
)
def test_eight_processes_share_cores_but_those_that_each_is_bound_to(
    group: Path, monkeypatch: pytest.MonkeyPatch, launcher: int, own: int, quota: int | None, cores: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 192)
    monkeypatch.setattr(os, "process_cpu_count", lambda: own, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(own if pid == 0 else launcher)))
    if quota:
        (group / "cpu.max").write_text(f"{quota}00000 100000")
    assert cores_of_each(8) == cores


def test_memory_is_what_the_system_and_the_group_leave(
    group: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3,000 kB of the machine; a limit of 2,000,000 bytes of which 1,500,000 are used."""
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:  3000 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    assert available_memory() == 3000 * 1024
    (group / "memory.current").write_text("1500000\n")
    (group / "memory.max").write_text("max\n")
    assert available_memory() == 3000 * 1024
    (group / "memory.max").write_text("2000000\n")
    assert available_memory() == 500_000
