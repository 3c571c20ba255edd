"""Runtimes that may not be installed, and files for those that are."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssdlite.export.exporters.formats import export_file
from ssdlite.export.formats.registry import RUNTIMES
from ssdlite.export.verify.verify import VerificationImages
from ssdlite.models.detector import Detector

from ..conftest import DECODER, METADATA

RUNNABLE = [name for name, runtime in RUNTIMES.items() if runtime.runs_here]


def require_runtime(name: str) -> None:
    """Skip where the packages of a format are missing; fail where SSDLITE_RUNTIMES says that they are there."""
    for module in RUNTIMES[name].modules:
        if name in os.environ.get("SSDLITE_RUNTIMES", "").split(","):
            importlib.import_module(module)
        else:
            reason = f"{module} is not installed: pip install 'ssdlite[{name}]', or make test-runtimes"
            pytest.importorskip(module, reason=reason, exc_type=ImportError)


@pytest.fixture(scope="session")
def exported(
    detector: Detector, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """`exported("ncnn")` is the small network in that format, written once; it skips where that is not possible."""
    folder = tmp_path_factory.mktemp("formats")

    def write(name: str) -> Path:
        require_runtime(name)
        path = folder / f"small{RUNTIMES[name].name_suffix}"
        if not path.exists():
            export_file(
                detector,
                path,
                name,
                decoder=DECODER,
                metadata=METADATA,
                verification_images=VerificationImages(images),
            )
        return path

    return write
