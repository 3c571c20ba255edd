"""Fixtures: one small network and its exported files, shared because tracing takes most of the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ssdlite.api import ImageDetections
from ssdlite.export.metadata import ExportMetadata, FileForm
from ssdlite.export.onnx.model import build_model, trace_detector
from ssdlite.export.verify.compare import Verification, verify_onnx
from ssdlite.models.decode import Decoder
from ssdlite.models.detector import Detector
from ssdlite.models.network import Network
from ssdlite.models.variants import DIALECTS
from ssdlite.structures import Detections

FORMS = {
    "nms": FileForm("nms"),
    "tensor": FileForm("nms", "tensor"),
    "decoded": FileForm("decoded"),
    "raw": FileForm("raw"),
    "raw-levels": FileForm("raw-levels"),
}
HEADS = tuple(FORMS)
SIZE = (96, 128)  # maps of 6×8, 3×4, 2×2 and three of 1×1: 258 priors
METADATA = ExportMetadata(
    class_names=("Maß", "dog", "train"),
    config={"model": {"width": 0.25}},
    dialect="paper",
    width=0.25,
    metrics={"AP": 0.5, "AP75": None},
    version="1.2.3",
)
# Few enough candidates that their limit takes part.
DECODER = Decoder(SIZE, score_threshold=0.5, iou_threshold=0.5, candidates_per_class=30, max_detections=100)


def draw_images(count: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """Return (count, 3, H, W) uint8: coloured squares with noise, so that no two places look alike."""
    generator = np.random.default_rng(seed)
    height, width = size
    squares = generator.integers(0, 256, (count, 3, height // 16, width // 16)).repeat(16, 2).repeat(16, 3)
    return np.clip(squares + generator.integers(-20, 21, squares.shape), 0, 255).astype(np.uint8)


@torch.no_grad()
def make_detector(dialect: str, size: tuple[int, int], seed: int = 0, **options: Any) -> Detector:
    """Random network whose norms were fitted to images and whose scores and boxes vary over the image."""
    torch.manual_seed(seed)
    detector = Detector(DIALECTS[dialect], num_classes=3, input_size=size, width=0.25, **options).train()
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain mean over what follows
    detector(torch.from_numpy(draw_images(16, size, seed)))
    for branch, std in ((detector.head.classification, 0.1), (detector.head.regression, 0.05)):
        for predict in branch:
            nn.init.normal_(predict[-1].weight, std=std)
            nn.init.zeros_(predict[-1].bias)
    return detector.eval()


def assert_same_detections(
    found: Detections | ImageDetections,
    expected: Detections | ImageDetections,
    pixels: float = 0.05,
    score: float = 1e-3,
) -> None:
    """Assert equality as sets: rounding changes scores of a random network by 1e-4, and with them the order."""
    assert len(found.scores) == len(expected.scores)
    same = found.labels[:, None] == expected.labels[None]
    same &= np.abs(found.scores[:, None] - expected.scores[None]) < score
    same &= np.abs(found.boxes[:, None] - expected.boxes[None]).max(axis=2, initial=0) < pixels
    assert same.any(axis=1).all() and same.any(axis=0).all()


@torch.no_grad()
def shift_mean(network: Network) -> None:
    """Wrong normalisation: 126.5 instead of 127.5."""
    network.normalize.mean += 1


@torch.no_grad()
def swap_channels(network: Network) -> None:
    """Wrong colours: BGR instead of RGB."""
    stem = network.backbone.features[0][0]
    stem.weight.copy_(stem.weight.flip(1))


def shift_priors(network: Detector) -> None:
    """Move boxes by 50 times their allowed error."""
    network.priors[:, 0] += 5


def save_and_verify(model: onnx.ModelProto, path: Path, detector: Detector, images: np.ndarray) -> Verification:
    onnx.save(model, path)
    return verify_onnx(path, detector, images)


@pytest.fixture(scope="session")
def detector() -> Detector:
    return make_detector("paper", SIZE)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return draw_images(6, SIZE, seed=1)


@pytest.fixture(scope="session")
def traced(detector: Detector) -> onnx.ModelProto:
    return trace_detector(detector)


@pytest.fixture(scope="session")
def files(
    detector: Detector, traced: onnx.ModelProto, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Files of each head, and one with suppression by tensors."""
    folder = tmp_path_factory.mktemp("onnx")
    for head, form in FORMS.items():
        model = build_model(traced, detector, form=form, decoder=DECODER, metadata=METADATA)
        assert save_and_verify(model, folder / f"{head}.onnx", detector, images).passed
    return {head: folder / f"{head}.onnx" for head in HEADS}
