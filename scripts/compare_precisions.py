"""Export a checkpoint in fp32, fp16 and int8, and print AP, size and latency of each as a table.

    python scripts/compare_precisions.py runs/NAME/best.pt [data=PATH] [--images 0] [--threads 1] [--runs 60]

AP is that of all validation images, or of --images of them, spread over the split. Latencies are of batch 1, from
pixels to detections, measured in turns in this one process: on a quiet machine their ratios mean something.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import torch

from ssdlite.build.model import LoadedDetector, build_decoder, export_metadata, load_detector
from ssdlite.commands.verification_images import calibration_images, make_evaluator, thin_split, validation_split
from ssdlite.config.schema import parse_options
from ssdlite.data.stream import ImageStream
from ssdlite.export.metadata import FileForm, Precision
from ssdlite.export.onnx.model import QuantizationData, build_model, narrow, trace_detector
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.models.predictor import TorchPredictor
from ssdlite.structures import Batch, DataSplit, Predictor

FILES: dict[str, tuple[Precision, bool]] = {
    "fp32": ("fp32", False),
    "fp16": ("fp16", False),
    "int8": ("int8", True),
    "int8 --no-reduce-range": ("int8", False),
}
TURNS, WARM_UP, REST = 6, 3, 0.2  # seconds: onnxruntime's threads look for work for a while after a run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--images", type=int, default=0, help="to evaluate on; 0: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=60, help="of each, for the latency")
    parser.add_argument("--output", type=Path, help="keep the files in this folder")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    loaded = load_detector(arguments.checkpoint, parse_options(arguments.overrides))
    split = validation_split(loaded)
    split = thin_split(split, arguments.images or len(split))
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.output or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = _write_files(loaded, folder)
        decoder = build_decoder(loaded.config.eval, loaded.detector.input_size)
        predictors: dict[str, Predictor] = {
            "PyTorch": TorchPredictor(loaded.detector, decoder, torch.device("cpu")),
            **{name: OnnxPredictor(folder / _file_name(name), arguments.threads) for name in FILES},
        }
        evaluator = make_evaluator(loaded, split, batch_size=8)
        accuracies = {name: evaluator(predictor) for name, predictor in predictors.items()}
        plain = {
            name: evaluator(OnnxPredictor(folder / _file_name(name), arguments.threads, exact_int8=False))
            for name, (precision, _) in FILES.items()
            if precision == "int8"
        }
        milliseconds = _measure(predictors, _first_image(loaded, split), arguments.runs)
    print(
        f"{arguments.checkpoint.parent.name}, {len(split)} validation images, {arguments.threads} threads, batch 1"
    )
    print("| file | MB | AP | onnxruntime's own options | ms, median | ms, 90 % | times fp32 |")
    print("|---|---|---|---|---|---|---|")
    for name, found in accuracies.items():
        p50, p90 = milliseconds[name]
        size = f"{sizes[name]:.1f}" if name in sizes else "–"
        own = f"{plain[name]:.4f}" if name in plain else "same"
        ratio = milliseconds["fp32"][0] / p50
        print(f"| {name} | {size} | {found:.4f} | {own} | {p50:.1f} | {p90:.1f} | {ratio:.2f} |")


def _file_name(name: str) -> str:
    return f"{name.replace(' --', '-')}.onnx"


def _write_files(loaded: LoadedDetector, folder: Path) -> dict[str, float]:
    """The files of `FILES`, and their megabytes."""
    detector, sizes = loaded.detector, {}
    traced = trace_detector(detector)
    images = calibration_images(loaded, None)
    for name, (precision, reduce_range) in FILES.items():
        model = build_model(
            narrow(traced, precision, QuantizationData(images, reduce_range)),
            detector,
            decoder=build_decoder(loaded.config.eval, detector.input_size),
            metadata=export_metadata(loaded.config, loaded.class_names, loaded.metrics),
            form=FileForm(precision=precision),
        )
        onnx.save(model, folder / _file_name(name))
        sizes[name] = (folder / _file_name(name)).stat().st_size / 1e6
    return sizes


def _first_image(loaded: LoadedDetector, split: DataSplit) -> Batch:
    alignment = loaded.detector.dialect.resize_alignment
    images = ImageStream(thin_split(split, 1), loaded.detector.input_size, alignment=alignment, batch_size=1)
    return next(iter(images))


def _measure(predictors: dict[str, Predictor], batch: Batch, runs: int) -> dict[str, np.ndarray]:
    """Median and 90th percentile in ms."""
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    for _ in range(TURNS):
        for name, predictor in predictors.items():
            time.sleep(REST)
            for run in range(WARM_UP + -(-runs // TURNS)):
                start = time.perf_counter()
                predictor(batch)
                if run >= WARM_UP:
                    seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * np.percentile(values, [50, 90]) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
