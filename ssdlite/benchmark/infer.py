"""Latency of the network in every installed runtime and of other detectors, with one thread and with all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from ssdlite.benchmark.children import in_child
from ssdlite.benchmark.timing import Rows, measure, synchronizer
from ssdlite.benchmark.workload import Workload, build_network, resident_batch
from ssdlite.build.model import build_decoder, export_metadata
from ssdlite.errors import ConfigError, UserError
from ssdlite.export.exporters.formats import export_file
from ssdlite.export.exporters.onnx import export_onnx
from ssdlite.export.formats.base import suppress_output
from ssdlite.export.formats.opencv import OpenCvSession
from ssdlite.export.formats.openvino import OpenVinoSession, computes_in_half
from ssdlite.export.formats.registry import RUNTIMES, open_file
from ssdlite.export.metadata import FileForm, HeadKind
from ssdlite.export.onnx.model import QuantizationData
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.predictor import FilePredictor
from ssdlite.models.decode import decode_output
from ssdlite.models.detector import Detector
from ssdlite.models.network import Network
from ssdlite.training.distributed import prepare_device

TORCHVISION_SIZE = 320


SETTLING_IMAGES = 4


PIXEL_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
"""Types of pixels that a baseline may take."""


Program: TypeAlias = Literal["torch", "onnxruntime", "opencv", "openvino-half", "file", "rival"]


class RuntimeCase(NamedTuple):
    """A network in a runtime; it travels to other processes."""

    name: str
    program: Program
    path: Path | None  # of its file
    size: int = 0  # bytes of all its files
    note: str = ""


class Field(NamedTuple):
    """Runtimes and files that are compared."""

    cases: list[RuntimeCase]
    left_out: list[str]  # a sentence each


def prepare_cases(workload: Workload) -> Field:
    """Write the network for every runtime that is installed."""
    network = settled_network(workload)
    head = head_of(network)
    onnx_path, int8_path = workload.scratch / "benchmark.onnx", workload.scratch / "benchmark-int8.onnx"
    noise = resident_batch(network.input_size, SETTLING_IMAGES, workload.num_classes, torch.device("cpu"))
    calibration = QuantizationData(noise.images.numpy(), reduce_range=True)
    choices = _choices(workload)
    export_onnx(network, onnx_path, verification_images=None, form=FileForm(head=head), **choices)
    int8 = FileForm(head=head, precision="int8")
    export_onnx(network, int8_path, verification_images=None, form=int8, calibration=calibration, **choices)
    size = onnx_path.stat().st_size
    device = workload.device.type
    found = [
        RuntimeCase(f"PyTorch, {device}, fp32", "torch", None),
        RuntimeCase("ONNX Runtime, cpu, fp32", "onnxruntime", onnx_path, size, f"head {head}"),
        RuntimeCase("ONNX Runtime, cpu, int8", "onnxruntime", int8_path, int8_path.stat().st_size, f"head {head}"),
        RuntimeCase("OpenCV, cpu, fp32", "opencv", onnx_path, size, f"head {head}"),
    ]
    left_out: list[str] = []
    if isinstance(network, Detector):
        for name in RUNTIMES:
            others, reason = _in_format(name, network, workload)
            found += others
            left_out += [reason] if reason else []
    else:  # nobody has tried OpenCV's engines on the decoding of corners
        del found[-1]
        left_out.append("Corner networks are measured in PyTorch and ONNX Runtime only.")
    return Field([*found, _torchvision(workload), *map(_baseline, workload.baselines)], left_out)


def settled_network(workload: Workload) -> Network:
    """The network with norms as after a training.

    Untrained ones end each residual branch with a factor of 0 (LiteRT leaves such branches out, and looked twice as
    fast), and let what passes them shrink to nothing.
    """
    network = build_network(workload)
    if not isinstance(workload.config.model.weights, Path):
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # a plain mean
            nn.init.ones_(norm.weight)
        batch = resident_batch(network.input_size, SETTLING_IMAGES, workload.num_classes, workload.device)
        with torch.no_grad():
            network.train()(batch.images)
    return network.eval()


def head_of(network: Network) -> HeadKind:
    """Return where the files end: as early as they can."""
    return "raw" if isinstance(network, Detector) else "decoded"


def _in_format(name: str, network: Detector, workload: Workload) -> tuple[list[RuntimeCase], str | None]:
    """The network in another format, or why it is not there."""
    runtime = RUNTIMES[name]
    if not runtime.runs_here:
        return [], None
    if not RUNTIMES[name].is_installed:
        return [], f"{runtime.program} is not installed: pip install 'ssdlite[{name}]'."
    folder = workload.scratch / name
    path = folder / f"benchmark{runtime.name_suffix}"
    try:
        export_file(network, path, name, verification_images=None, head="raw", **_choices(workload))
        predictor = open_file(path)
    except UserError as error:
        return [], f"{runtime.program} is left out: {error}"
    size = sum(file.stat().st_size for file in folder.iterdir() if file.suffix != ".json")
    note = "head raw" if predictor.batch_size is None else "head raw, one image after the other"
    found = [RuntimeCase(f"{runtime.program}, cpu, fp32", "file", path, size, note)]
    if name == "openvino" and computes_in_half():
        found.append(
            RuntimeCase(f"{runtime.program}, cpu, its own choice", "openvino-half", path, size, "bf16 or fp16")
        )
    return found, None


def open_case(case: RuntimeCase, workload: Workload, threads: int) -> Callable[[Tensor], Any]:
    """Return a function that runs a batch (B, 3, H, W) uint8, without work that a run does not need."""
    match case.program:
        case "torch":
            network = settled_network(workload)
            return lambda images: _torch_outputs(network, images)
        case "rival":
            assert case.path is not None
            return _open_baseline(case.path, threads)
    assert case.path is not None
    run = _open(case.program, case.path, threads)
    return lambda images: run(images.cpu().numpy())


def _open(program: Program, path: Path, threads: int) -> Callable[[np.ndarray], Any]:
    match program:
        case "onnxruntime":
            return OnnxPredictor(path, threads).run
        case "opencv":
            return FilePredictor(OpenCvSession(path, threads)).run
        case "openvino-half":
            return FilePredictor(OpenVinoSession(path, threads, precision=None)).run
    return open_file(path, threads).run


@torch.inference_mode()
def _torch_outputs(network: Network, images: Tensor) -> Any:
    output = network(images.contiguous(memory_format=torch.channels_last))
    return output if head_of(network) == "raw" else decode_output(output, network.input_size)


def _choices(workload: Workload) -> dict[str, Any]:
    config = workload.config
    return {
        "decoder": build_decoder(config.eval, config.model.input_size),
        "metadata": export_metadata(config, workload.train.class_names, metrics={}),
    }


class _RawTorchvision(nn.Module):
    """torchvision's network up to its logits and deltas, with the normalisation in front."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=num_classes + 1)
        self.backbone, self.head = model.backbone, model.head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.head(list(self.backbone(images / 127.5 - 1).values()))
        return output["cls_logits"], output["bbox_regression"]


def _torchvision(workload: Workload) -> RuntimeCase:
    """torchvision's SSDLite as ONNX, at the size that it is made for."""
    path = workload.scratch / "torchvision.onnx"
    network = _RawTorchvision(workload.num_classes).eval()
    example = torch.zeros(2, 3, TORCHVISION_SIZE, TORCHVISION_SIZE)
    with suppress_output("the export of torchvision's network"):  # by the old exporter, which warns of its age
        torch.onnx.export(
            network, (example,), path, dynamo=False, opset_version=17, verbose=False,
            input_names=["images"], dynamic_axes={"images": {0: "batch"}},
        )  # fmt: skip
    note = f"{TORCHVISION_SIZE}x{TORCHVISION_SIZE}, raw"
    return RuntimeCase("torchvision's ssdlite320, ONNX Runtime", "rival", path, path.stat().st_size, note)


def _baseline(path: Path) -> RuntimeCase:
    """A detector's .onnx file from elsewhere, of which only the time matters."""
    height, width = _sides(_image_input(_session(path, 1), path))
    return RuntimeCase(f"{path.stem}, ONNX Runtime", "rival", path, path.stat().st_size, f"{width}x{height}")


def _open_baseline(path: Path, threads: int) -> Callable[[Tensor], Any]:
    """Noise of the file's own size goes in, as many images as are asked for."""
    session = _session(path, threads)
    given = _image_input(session, path)
    kind = PIXEL_TYPES[given.type]
    at_once = given.shape[0] if isinstance(given.shape[0], int) else None

    def answer(images: Tensor) -> None:
        size = at_once or len(images)
        noise = np.zeros((size, 3, *_sides(given)), kind) + np.asarray(0.5, kind)
        for _ in range(0, len(images), size):
            session.run(None, {given.name: noise})

    return answer


def _sides(given: Any) -> tuple[int, int]:
    """Height and width that an input takes, or is given where it takes any."""
    height, width = (side if isinstance(side, int) else TORCHVISION_SIZE for side in given.shape[2:])
    return height, width


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise ConfigError(f"--rival {path} cannot be loaded by onnxruntime: {str(error)[-200:]}") from None


def _image_input(session: onnxruntime.InferenceSession, path: Path) -> Any:
    """Raise ConfigError unless the file takes one batch of images (B, 3, H, W)."""
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        raise ConfigError(f"--rival {path} takes {[given.shape for given in inputs]}, not images (B, 3, H, W).")
    if inputs[0].type not in PIXEL_TYPES:
        raise ConfigError(f"--rival {path} takes {inputs[0].type}, not one of {', '.join(PIXEL_TYPES)}.")
    return inputs[0]


logger = logging.getLogger(__name__)


NAME = "infer"


BATCH_SIZES = (1, 8)


TURNS = 4


REST = 0.2  # seconds: a runtime's threads look for work for a while after a run and would disturb the next one


def run(workload: Workload) -> Rows:
    """Return all rows of the section; files are written in one process, and each number of threads has one of its
    own."""
    rows = Rows(NAME)
    cases, left_out = in_child(prepare_cases, workload, **workload.child)
    for reason in left_out:  # told here: other processes have no screen
        logger.warning("%s", reason)
    for case in cases:
        if case.path is not None:
            rows.value(f"size of {case.name}", case.size / 1e6, "MB", note=case.note)
    for threads in sorted({1, workload.threads}):
        options = {**workload.child, "threads": threads}
        rows += in_child(_measure, workload, cases, threads, **options)
    return rows


def _measure(workload: Workload, cases: list[RuntimeCase], threads: int) -> Rows:
    rows, device = Rows(NAME), workload.device
    prepare_device(device)
    works = {case: open_case(case, workload, threads) for case in cases}
    label = f"{threads} thread{'s' if threads > 1 else ''}"
    for batch_size in BATCH_SIZES:
        images = resident_batch(workload.config.model.input_size, batch_size, workload.num_classes, device).images
        runs = workload.effort.latencies // (1 if batch_size == 1 else 2)
        readings: dict[RuntimeCase, list[float]] = {case: [] for case in works}
        for _ in range(TURNS):
            for case, work in works.items():
                time.sleep(REST)
                once = partial(work, images)
                readings[case] += measure(once, warmup=3, runs=-(-runs // TURNS), synchronize=synchronizer(device))
        for case, seconds in readings.items():
            name = f"{case.name}, batch {batch_size}, {label}"
            rows.latency(name, seconds)
            rows.rate(name, seconds, images=batch_size)
    return rows
