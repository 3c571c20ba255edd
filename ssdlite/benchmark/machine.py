"""What a figure depends on beside the code."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

import ssdlite
from ssdlite.data.machine import usable_cores

if TYPE_CHECKING:
    import torch

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
    """Of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
