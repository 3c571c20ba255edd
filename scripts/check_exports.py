"""Export a checkpoint in every form that must not change its answers, and compare each file's AP with PyTorch's.

    python scripts/check_exports.py runs/NAME/best.pt [data=PATH] [--images 200]

Heads nms, decoded and suppression by tensors; opsets 13, 17, 18 and 20; any batch at 1 and 8 images, and batches
fixed to 1 and 8. Prints a table of differences and exits with 1 if one is above .001.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

from ssdlite.build.model import LoadedDetector, build_decoder, export_metadata, load_detector
from ssdlite.commands.verification_images import make_evaluator, thin_split, validation_split
from ssdlite.config.schema import parse_options
from ssdlite.export.metadata import FileForm
from ssdlite.export.onnx.graph import lower_opset
from ssdlite.export.onnx.model import build_model, trace_detector
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.verify.verify import MAX_AP_LOSS
from ssdlite.models.predictor import TorchPredictor

FORMS = {"nms": FileForm(), "nms by tensors": FileForm("nms", "tensor"), "decoded": FileForm("decoded")}
OPSETS = {18: (18, 17, 13), 20: (20,)}  # what is traced -> what is made of it
RUNS = {None: (1, 8), 1: (1,), 8: (8,)}  # the batch of the file -> those that it is run with


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--images", type=int, default=200, help="of the validation split, spread over it; 0: all")
    arguments = parser.parse_args()
    loaded = load_detector(arguments.checkpoint, parse_options(arguments.overrides))
    split = validation_split(loaded)
    split = thin_split(split, arguments.images or len(split))
    evaluators = {size: make_evaluator(loaded, split, size) for size in (1, 8)}
    decoder = build_decoder(loaded.config.eval, loaded.detector.input_size)
    expected = evaluators[8](TorchPredictor(loaded.detector, decoder, torch.device("cpu")))
    print(f"PyTorch: AP {expected:.5f} on {len(split)} images")
    print(f"{'head':16}{'opset':>6}{'batch':>9}{'run with':>9}{'AP':>9}{'difference':>12}", flush=True)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for head, opset, batch, path in _files(loaded, Path(folder)):
            predictor = OnnxPredictor(path)
            for size in RUNS[batch]:
                found = evaluators[size](predictor)
                worst = max(worst, math.inf if math.isnan(found) else abs(found - expected))
                name = "any" if batch is None else batch
                print(f"{head:16}{opset:6}{name:>9}{size:9}{found:9.5f}{found - expected:+12.5f}", flush=True)
    print(f"Largest difference: {worst:.5f} ({MAX_AP_LOSS['fp32']:g} is allowed)")
    return 0 if worst <= MAX_AP_LOSS["fp32"] else 1


def _files(loaded: LoadedDetector, folder: Path) -> Iterator[tuple[str, int, int | None, Path]]:
    """(head, opset, batch, file)."""
    decoder = build_decoder(loaded.config.eval, loaded.detector.input_size)
    metadata = export_metadata(loaded.config, loaded.class_names, loaded.metrics)
    path = folder / "model.onnx"
    for batch in RUNS:
        for traced_opset, opsets in OPSETS.items():
            traced = trace_detector(loaded.detector, batch=batch, opset=traced_opset)
            for opset in opsets:
                lower_opset(traced, opset)
                for head, form in FORMS.items():
                    model = build_model(traced, loaded.detector, decoder=decoder, metadata=metadata, form=form)
                    assert model.opset_import[0].version == opset
                    onnx.save(model, path)
                    yield head, opset, batch, path


if __name__ == "__main__":
    sys.exit(main())
