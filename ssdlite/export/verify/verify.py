"""Verification of an exported file: its numbers and its AP beside those of the network, its latency, and the JSON
beside it.
"""

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
    """Return the path of the report of an exported file: its name and .json."""
    return path.with_name(f"{path.name}.json")


def failed_report_path(path: Path) -> Path:
    """Return the path of the report of a file that was not written; that of the last one that was may lie
    beside."""
    return path.with_name(f"{path.name}.failed.json")


def describe(data: bytes) -> dict[str, Any]:
    """Return what the bytes of a file of ours say: its form, its operators and who has them, and its metadata.

    The metadata is there because converters of other runtimes leave it out; for raw heads with the priors.
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
    """Write what `describe` gave, with the report of its verification. Raises UserError."""
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    document = {"proof": report and report.to_dict(), "versions": versions, **description}
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _form(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """Type and shape."""
    tensor = value.type.tensor_type
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    return {"type": kind, "shape": [dim.dim_value or dim.dim_param for dim in tensor.shape.dim]}


logger = logging.getLogger(__name__)


MAX_AP_LOSS: dict[Precision, float] = {"fp32": 0.001, "fp16": 0.001, "int8": 0.01}
"""COCO AP that a file may lose; with float numbers it may not gain more either, for that is a difference too."""


TURNS, RUNS_A_TURN, WARM_UP = 3, 8, 3


REST = 0.2  # seconds: onnxruntime's threads look for work for a while after a run and would disturb PyTorch


Evaluator: TypeAlias = Callable[[Predictor], float]
"""A predictor -> its AP on validation images; NaN where there is no object to find."""


@dataclass(frozen=True, eq=False)
class VerificationImages:
    """Images that a file is compared with PyTorch on."""

    images: np.ndarray  # (N, 3, H, W) uint8 RGB, N > 0: what the network sees in earnest, a dozen or two
    evaluator: Evaluator | None = None
    num_evaluated: int = 0  # images that `evaluate` looks at
    allowed_loss: float | None = None  # AP; None takes `MAX_AP_LOSS`


@dataclass(frozen=True)
class Accuracy:
    """The AP of a file beside that of the network, on the same validation images."""

    torch: float
    file: float
    num_images: int
    allowed_loss: float
    may_gain: bool  # without limit
    plain: float | None = None  # of an int8 file with onnxruntime's own options, see `runtime.EXACT_INT8`

    @property
    def passed(self) -> bool:
        if math.isnan(self.torch):
            return math.isnan(self.file)  # nothing to find, so neither says anything
        change = self.file - self.torch
        return change >= -self.allowed_loss and (self.may_gain or change <= self.allowed_loss)

    def __str__(self) -> str:
        return f"AP is {self.file:.4f} on {self.num_images} images, where PyTorch has {self.torch:.4f}"


class Percentiles(NamedTuple):
    """Milliseconds of one run."""

    p50: float
    p90: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds from pixels to detections on this machine, with as many threads as each takes by itself."""

    batch_size: int
    runs: int
    torch: Percentiles
    file: Percentiles


@dataclass(frozen=True)
class VerificationReport:
    """Report of the verification of a file."""

    verification: Verification
    accuracy: Accuracy | None  # None where nobody evaluated
    latency: Latency

    @property
    def passed(self) -> bool:
        return self.verification.passed and (self.accuracy is None or self.accuracy.passed)

    @property
    def summary(self) -> str:
        """Return what is wrong, or nearest to it, in one phrase."""
        if self.verification.passed and self.accuracy and not self.accuracy.passed:
            return f"{self.accuracy} (a difference of {self.accuracy.allowed_loss:g} is allowed)"
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
    """Return the same of a file in another runtime."""
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
    # What computes something else need not be evaluated, nor need anyone wait for that.
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
            "AP was not compared: no object is in the %d validation images.", verification_images.num_evaluated
        )
    elif accuracy.torch <= allowed:
        logger.warning(
            "AP says little: PyTorch's own is %.4f, and a file may lose %g; --tolerance takes less.",
            *(accuracy.torch, allowed),
        )
    elif accuracy.plain is not None and accuracy.plain < min(accuracy.torch, accuracy.file) - allowed:
        logger.warning(
            "on this processor onnxruntime's own options give AP %.4f in place of %.4f, because products of 8 bits "
            "overflow; ssdlite sets session.x64quantprecision=1, which others must do too, or export with "
            "--reduce-range.",
            *(accuracy.plain, accuracy.file),
        )
    return accuracy


def _measure(file: FilePredictor, network: TorchPredictor, images: np.ndarray) -> Latency:
    """Both in turns, so that what else the machine does meets both."""
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
