"""`ssdlite export-onnx`: a checkpoint as ONNX, proved on validation images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

import numpy as np

import ssdlite
from ssdlite import build
from ssdlite.commands.screen import console
from ssdlite.data.dataset import DetectionDataset
from ssdlite.deploy.metadata import ExportMetadata, HeadKind
from ssdlite.deploy.onnx import export_onnx as write_onnx
from ssdlite.deploy.onnx import require_head
from ssdlite.deploy.verify import Verification
from ssdlite.errors import ConfigError, DataError
from ssdlite.files import require_writable
from ssdlite.sources import read_data

VERIFIED_IMAGES = 16


def export_onnx(
    checkpoint: Path,
    overrides: Sequence[str],
    *,
    output: Path | None,
    head: str,
    batch: str,
    opset: int,
    verify: bool,
) -> None:
    """Write `checkpoint` as ONNX; see `ssdlite export-onnx --help`."""
    if head not in get_args(HeadKind):
        raise ConfigError(f"--head is {', '.join(get_args(HeadKind))}, not '{head}'.")
    loaded = build.load_detector(checkpoint, overrides)
    require_head(loaded.detector, cast(HeadKind, head))
    output = output or checkpoint.with_suffix(".onnx")
    require_writable(output)
    started = time.perf_counter()
    with console.status("Exporting and comparing, some ten seconds"):
        verification = write_onnx(
            loaded.detector,
            output,
            decoder=build.build_decoder(loaded.config.eval, loaded.detector.input_size),
            metadata=ExportMetadata(
                class_names=loaded.class_names,
                config=loaded.config.to_dict(),
                dialect=loaded.config.model.dialect,
                width=loaded.config.model.width,
                metrics=loaded.metrics,
                version=ssdlite.__version__,
            ),
            images=_validation_images(loaded) if verify else None,
            head=cast(HeadKind, head),
            batch=_batch_size(batch),
            opset=opset,
        )
    seconds = time.perf_counter() - started
    size = output.stat().st_size / 1e6
    console.print(f"Wrote {output} ({size:.1f} MB, head {head}, opset {opset}, batch {batch}) in {seconds:.0f} s")
    _report(verification)


def _validation_images(loaded: build.LoadedDetector) -> np.ndarray:
    """Some validation images, spread over the split, as the network sees them: (N, 3, H, W) uint8."""
    (split,) = read_data(loaded.config.data, ["val"], loaded.class_names)
    detector = loaded.detector
    dataset = DetectionDataset(split, detector.input_size, alignment=detector.dialect.resize_alignment)
    if not len(dataset):
        raise DataError("there are no validation images to compare on; use --no-verify, or data=PATH.")
    count = min(VERIFIED_IMAGES, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    return np.stack([dataset[int(index)].image.numpy() for index in chosen])


def _batch_size(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdigit() or int(text) == 0:
        raise ConfigError(f"--batch is 'dynamic' or a number of images such as 1, not '{text}'.")
    return int(text)


def _report(verification: Verification | None) -> None:
    if verification is None:
        console.print("Not compared with PyTorch (--no-verify).")
        return
    batches = " and ".join(map(str, verification.batch_sizes))
    console.print(f"Agrees with PyTorch on {verification.num_images} validation images, at batch {batches}:")
    for difference in verification.differences:
        console.print(f"  {difference}")
