"""Verification of an exported file against its network: outputs, AP and latency, and the JSON report."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper

from ssdlite.data.stream import array_batch
from ssdlite.export.metadata import Precision
from ssdlite.export.onnx.graph import count_operators, count_weights, needs, obstacles
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.predictor import FilePredictor
from ssdlite.export.verify.compare import Verification, verify_file, verify_onnx
from ssdlite.io import write_text
from ssdlite.models.decode import Decoder
from ssdlite.models.network import Network
from ssdlite.models.predictor import TorchPredictor
from ssdlite.structures import Predictor


def report_path(path: Path) -> Path:
    """Return the path of the report of an exported file: its name with .json appended."""
    return path.with_name(f"{path.name}.json")


def failed_report_path(path: Path) -> Path:
    """Return the path of the report of a file that failed verification.

    It differs from `report_path`, which may hold the report of an earlier file that passed.
    """
    return path.with_name(f"{path.name}.failed.json")


def describe(data: bytes) -> dict[str, Any]:
    """Describe an exported .onnx file: inputs, outputs, operators, runtimes that support it, and its metadata.

    The metadata are repeated because converters for other runtimes drop them; for raw heads with the priors.
    """
    model = onnx.load_from_string(data)
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    priors = {"priors": properties["ssdlite.priors"]} if "ssdlite.priors" in properties else {}
    return {
        "bytes": len(data),
        "weights": count_weights(model),
        "opset": model.opset_import[0].version,
        "ir_version": model.ir_version,
        "inputs": {value.name: _form(value) for value in model.graph.input},
        "outputs": {value.name: _form(value) for value in model.graph.output},
        "operators": count_operators(model),
        "runtimes": obstacles(needs(model)),
        "names": properties["names"],
        "metadata": properties["ssdlite"],
        **priors,
    }


def write_report(path: Path, description: dict[str, Any], report: VerificationReport | None) -> None:
    """Write the result of `describe` and the report of the verification. Raises UserError."""
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    document = {"proof": report and report.to_dict(), "versions": versions, **description}
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _form(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """Return the type and shape of an input or output."""
    tensor = value.type.tensor_type
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    return {"type": kind, "shape": [dim.dim_value or dim.dim_param for dim in tensor.shape.dim]}


logger = logging.getLogger(__name__)


MAX_AP_LOSS: dict[Precision, float] = {"fp32": 0.001, "fp16": 0.001, "int8": 0.01}
"""COCO AP that a file may lose; a float file may not gain more either, because its results should be equal."""


TURNS, RUNS_A_TURN, WARM_UP = 3, 8, 3


REST = 0.2  # seconds; onnxruntime's threads stay active for a while after a run and would slow PyTorch down


Evaluator: TypeAlias = Callable[[Predictor], float]
"""Function from a predictor to its AP on validation images; NaN if the images have no objects."""


@dataclass(frozen=True, eq=False)
class VerificationImages:
    """Images on which a file is compared with PyTorch."""

    images: np.ndarray  # (N, 3, H, W) uint8 RGB, N > 0: real images, a dozen or two
    evaluator: Evaluator | None = None  # None: AP is not compared
    num_evaluated: int = 0  # images that `evaluator` uses
    allowed_loss: float | None = None  # of AP; None takes `MAX_AP_LOSS`


@dataclass(frozen=True)
class Accuracy:
    """AP of a file and of the network on the same validation images; NaN if they have no objects."""

    torch: float
    file: float
    num_images: int
    allowed_loss: float
    may_gain: bool  # whether the file may have any higher AP
    plain: float | None = None  # AP of an int8 file with onnxruntime's default options, see `runtime.EXACT_INT8`

    @property
    def passed(self) -> bool:
        """True if the difference is within its bound, or undefined for both."""
        if math.isnan(self.torch):
            return math.isnan(self.file)
        change = self.file - self.torch
        return change >= -self.allowed_loss and (self.may_gain or change <= self.allowed_loss)

    def __str__(self) -> str:
        return f"AP is {self.file:.4f} on {self.num_images} images, where PyTorch has {self.torch:.4f}"


class Percentiles(NamedTuple):
    """Median and 90th percentile of the milliseconds of a run."""

    p50: float
    p90: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds from pixels to detections on this machine, each with its default number of threads."""

    batch_size: int
    runs: int
    torch: Percentiles
    file: Percentiles


@dataclass(frozen=True)
class VerificationReport:
    """Result of the verification of a file: outputs, accuracy and latency."""

    verification: Verification
    accuracy: Accuracy | None  # None if AP was not compared
    latency: Latency

    @property
    def passed(self) -> bool:
        """True if outputs and accuracy are within their bounds."""
        return self.verification.passed and (self.accuracy is None or self.accuracy.passed)

    @property
    def summary(self) -> str:
        """Worst failure, or the difference that is nearest to its bound, as a phrase."""
        if self.verification.passed and self.accuracy and not self.accuracy.passed:
            return f"{self.accuracy} (allowed difference {self.accuracy.allowed_loss:g})"
        return self.verification.summary

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        accuracy = self.accuracy and {**asdict(self.accuracy), "passed": self.accuracy.passed}
        for name, value in (accuracy or {}).items():
            if isinstance(value, float) and math.isnan(value):
                accuracy[name] = None  # type: ignore[index]
        latency = {
            **asdict(self.latency),
            "torch": self.latency.torch._asdict(),
            "file": self.latency.file._asdict(),
        }
        return {
            "passed": self.passed,
            "verification": self.verification.to_dict(),
            "accuracy": accuracy,
            "latency_ms": latency,
        }


def verify_onnx_export(
    path: Path, detector: Network, decoder: Decoder, verification_images: VerificationImages
) -> VerificationReport:
    """Compare the .onnx at `path` with `detector`, which is not changed, on all of `verification_images`.

    Raises CheckpointError if the file cannot be loaded.
    """
    verification = verify_onnx(path, detector, verification_images.images)
    file = OnnxPredictor(path)
    plain = OnnxPredictor(path, exact_int8=False) if file.metadata.precision == "int8" else None
    return _verify(file, verification, detector, decoder, verification_images, plain)


def verify_export(
    file: FilePredictor, detector: Network, decoder: Decoder, verification_images: VerificationImages
) -> VerificationReport:
    """Compare a file of another runtime with `detector`, which is not changed, on all of `verification_images`."""
    verification = verify_file(file, detector, verification_images.images)
    return _verify(file, verification, detector, decoder, verification_images)


def _verify(
    file: FilePredictor,
    verification: Verification,
    detector: Network,
    decoder: Decoder,
    verification_images: VerificationImages,
    plain: FilePredictor | None = None,
) -> VerificationReport:
    network = TorchPredictor(copy.deepcopy(detector).cpu().float(), decoder, torch.device("cpu"))
    accuracy = None
    # Evaluating a file with wrong outputs would take time and tell nothing.
    if verification_images.evaluator and verification.passed:
        accuracy = _assess(file, network, verification_images.evaluator, verification_images, plain)
    return VerificationReport(verification, accuracy, _measure(file, network, verification_images.images))


def _assess(
    file: FilePredictor,
    network: TorchPredictor,
    evaluator: Evaluator,
    verification_images: VerificationImages,
    plain: FilePredictor | None,
) -> Accuracy:
    precision = file.metadata.precision
    allowed = (
        MAX_AP_LOSS[precision] if verification_images.allowed_loss is None else verification_images.allowed_loss
    )
    accuracy = Accuracy(
        torch=evaluator(network),
        file=evaluator(file),
        num_images=verification_images.num_evaluated,
        allowed_loss=allowed,
        may_gain=precision == "int8",
        plain=evaluator(plain) if plain else None,
    )
    if math.isnan(accuracy.torch):
        logger.warning(
            "AP was not compared: the %d validation images have no objects.", verification_images.num_evaluated
        )
    elif accuracy.torch <= allowed:
        logger.warning(
            "the comparison of AP means little: that of PyTorch is %.4f, and the file may lose %g; set a smaller "
            "--tolerance.",
            *(accuracy.torch, allowed),
        )
    elif accuracy.plain is not None and accuracy.plain < min(accuracy.torch, accuracy.file) - allowed:
        logger.warning(
            "with default options, onnxruntime gives AP %.4f instead of %.4f on this processor, because products "
            "of 8 bits overflow; ssdlite sets session.x64quantprecision=1. Set it in other programs too, or export "
            "with --reduce-range.",
            *(accuracy.plain, accuracy.file),
        )
    return accuracy


def _measure(file: FilePredictor, network: TorchPredictor, images: np.ndarray) -> Latency:
    """Measure both in turns, so that other load on the machine affects both."""
    batch_size = file.batch_size or 1
    pixels = images[np.arange(batch_size) % len(images)].transpose(0, 2, 3, 1)
    batch = array_batch(np.ascontiguousarray(pixels), [file.input_size] * batch_size)
    seconds: dict[str, list[float]] = {"torch": [], "file": []}
    for _ in range(TURNS):
        for name, predictor in (("torch", network), ("file", file)):
            time.sleep(REST)
            for run in range(WARM_UP + RUNS_A_TURN):
                start = time.perf_counter()
                predictor(batch)
                if run >= WARM_UP:
                    seconds[name].append(time.perf_counter() - start)
    percentiles = {
        name: Percentiles(*(float(value) for value in 1e3 * np.percentile(values, [50, 90])))
        for name, values in seconds.items()
    }
    return Latency(batch_size, TURNS * RUNS_A_TURN, **percentiles)
