"""The machine that this process runs on: cores and memory within the limits of a container, and its description."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

import ssdlite

if TYPE_CHECKING:
    import torch


CGROUPS = Path("/sys/fs/cgroup")


MEMBERSHIP = Path("/proc/self/cgroup")


MEMINFO = Path("/proc/meminfo")


def user_cache_dir() -> Path:
    """Return the folder of this program's caches, where the system has its users'; it need not be there yet.

    Raises RuntimeError where it would be in a home folder that is not known.
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ssdlite"


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
    """Yield the content of the file `name` in this process's control group (version 2) and in each of those around
    it."""
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


PACKAGES = (
    *("torch", "torchvision", "numpy", "opencv-python-headless", "opencv-python", "albumentations"),
    *("onnx", "onnxruntime", "faster-coco-eval", "pycocotools"),
    *("openvino", "ncnn", "ai-edge-litert", "executorch"),
)


def describe_machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return processor, memory, GPU, versions and threads, in plain words and numbers."""
    import torch

    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_GB": round(_total_memory() / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "precision": str(dtype).removeprefix("torch."),
        "threads": {
            "torch": torch.get_num_threads(),
            "opencv": cv2.getNumThreads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "versions": {"python": platform.python_version(), "ssdlite": ssdlite.__version__, **_versions()},
    }
    if device.type == "cuda":
        machine["versions"] |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if hasattr(os, "getloadavg"):  # of a machine that has other things to do, figures are worth little
        machine["load_before"] = round(os.getloadavg()[0], 2)
    return machine


def _processor() -> str:
    """The processor's name, and the instructions for bfloat16 that it has."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    extras = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([fields.get("model name", name), *(f"+{flag}" for flag in extras)])


def _total_memory() -> int:
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in names else 0


def _versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
