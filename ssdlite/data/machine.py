"""What this process may use of its machine: cores and memory, within the limits of a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")


def usable_cores() -> int:
    """Cores that this process may run on, and no more than a container's quota of processor time; at least 1."""
    if hasattr(os, "process_cpu_count"):  # since Python 3.13, with PYTHON_CPU_COUNT
        cores = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *_quotas()]))


def cores_of_each(processes: int) -> int:
    """Cores for each of `processes` of this machine, of which this is one, or 0 where there are not that many.

    They share what this one may use; but where their launcher, which is their parent, bound each to cores of its
    own, or groups of them to those of a NUMA node, what this one may run on is its share or its group's already.
    A quota of processor time is of all of them.
    """
    share = usable_cores() // processes
    try:
        own, launcher = os.sched_getaffinity(0), os.sched_getaffinity(os.getppid())
    except (AttributeError, OSError):  # not on macOS and Windows; a parent that is gone
        return share
    if not own < launcher:
        return share
    return max(share, min(len(own), *(cores // processes for cores in (len(launcher), *_quotas()))))


def _quotas() -> list[int]:
    """Cores that the quotas of processor time of this process's control groups amount to."""
    pairs = (text.split() for text in _cgroup_texts("cpu.max"))  # "150000 100000": 1.5; "max 100000": no quota
    return [round(int(pair[0]) / int(pair[1])) for pair in pairs if len(pair) == 2 and pair[0].isdigit()]


def available_memory() -> int:
    """Bytes that can be had without swapping, within a container's limit; 0 where the system does not tell."""
    try:
        lines = (line.split() for line in MEMINFO.read_text().splitlines())
        free = next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})  # macOS knows neither, Windows has no sysconf
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in names else 0
    for limit, used in zip(_cgroup_texts("memory.max"), _cgroup_texts("memory.current"), strict=False):
        if limit.isdigit() and used.isdigit():
            free = min(free, max(0, int(limit) - int(used)))
    return free


def _cgroup_texts(name: str) -> Iterator[str]:
    """What the file `name` says in this process's control group (version 2) and in each of those around it."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::"):
            group = CGROUPS / line[3:].lstrip("/")
            # Inside a container the path may be that of the host, of which only the root is seen.
            for folder in (group, *group.parents):
                if folder.is_relative_to(CGROUPS) and (folder / name).is_file():
                    yield (folder / name).read_text().strip()
