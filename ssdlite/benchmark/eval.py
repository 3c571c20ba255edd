"""Time of an evaluation by its parts: network, decoding and AP, also of COCO's 5,000 images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ssdlite.benchmark.children import in_child
from ssdlite.benchmark.timing import Rows, added_memory, interleave, reading, synchronizer
from ssdlite.benchmark.workload import Workload, build_network, loader_for, prepare_process, resident_batch
from ssdlite.build.model import build_decoder
from ssdlite.evaluation.coco import coco_metrics, load_faster
from ssdlite.evaluation.evaluate import predict_split
from ssdlite.evaluation.voc import voc_metrics
from ssdlite.models.predictor import TorchPredictor
from ssdlite.structures import DataSplit, Detections, HeadOutput, Record

NAME = "eval"


EVALUATED_CLASSES, EVALUATED_DETECTIONS, MEAN_OBJECTS = 80, 100, 7


SLOW_IMAGES = 500  # evaluated by pycocotools, which takes minutes for 5,000


IMAGE_SIZE = (480, 640)


NOISE_LOGIT, NOISE_SPREAD = -8.0, 1.4
"""Share of scores of a class at a prior. A share of .0078 is above a score of .01: with 3,000 priors and 20
classes some 470 boxes of an image enter suppression, as for a network that has learnt."""


class Evaluated(NamedTuple):
    """Seconds that the evaluation of simulated detections takes."""

    images: int
    backend: str
    coco_seconds: float
    coco_memory: int  # bytes at most beyond those before
    voc_seconds: float


def run(workload: Workload) -> Rows:
    """Return all rows of the section, measured in processes of their own."""
    rows = in_child(_measure, workload, **workload.child)
    evaluated = in_child(evaluator, workload.effort.evaluated, **workload.child)
    size = f"{evaluated.images} images x {EVALUATED_DETECTIONS} detections, {EVALUATED_CLASSES} classes"
    setting = f"{size}, {evaluated.backend}"
    rows.time("COCO AP", [evaluated.coco_seconds], unit="s", note=setting)
    rows.memory("COCO AP: memory on top", evaluated.coco_memory, note=setting)
    rows.time("VOC AP", [evaluated.voc_seconds], unit="s", note=setting)
    seconds_each = (evaluated.coco_seconds + evaluated.voc_seconds) / evaluated.images
    rows.time("an image: AP", [seconds_each], note="COCO and VOC")
    return rows


def _measure(workload: Workload) -> Rows:
    config, effort, device = workload.config, workload.effort, workload.device
    rows, size = Rows(NAME), workload.config.model.input_size
    prepare_process(device)
    network = build_network(workload).eval()
    predictor = TorchPredictor(network, build_decoder(config.eval, size), device, workload.dtype)
    batch = resident_batch(size, config.eval.batch_size, workload.num_classes, device)
    count = len(batch.images)
    started = predictor.start(batch)
    trained = isinstance(config.model.weights, Path)
    if isinstance(started.output, HeadOutput) and not trained:
        started = started._replace(output=simulate_output(started.output))
    synchronize = synchronizer(device)
    works = {
        "network": reading(lambda: predictor.start(batch), synchronize=synchronize),
        "decoding": reading(lambda: predictor.finish(started), synchronize=synchronize),
    }
    times = interleave(works, warmup=1, runs=effort.passes)
    note = f"batch {count}, {str(workload.dtype).removeprefix('torch.')}"
    rows.time("an image: network", [seconds / count for seconds in times["network"]], note=note)
    source = "what the checkpoint finds" if trained else "simulated scores"
    rows.time("an image: decoding", [seconds / count for seconds in times["decoding"]], note=source)
    loader = loader_for(config, workload.val, workload.workers, device=device, training=False)

    def evaluate_all() -> None:
        predict_split(predictor, _some(loader, effort.batches), len(workload.val))

    images = min(len(workload.val), effort.batches * config.eval.batch_size)
    readings = interleave({"all": reading(evaluate_all)}, warmup=1, runs=min(2, effort.passes))["all"]
    rows.rate(
        "from files to detections", readings, images=images, note=f"{workload.workers} workers, {images} images"
    )
    return rows


def _some(loader: Any, batches: int) -> Any:
    """The first batches of a loader."""
    return (batch for batch, _ in zip(loader, range(batches), strict=False))


def simulate_output(output: HeadOutput, seed: int = 0) -> HeadOutput:
    """Return an output with logits like a trained network's: few scores are high, and some hundred above .01."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(output.logits.shape, generator=generator) * NOISE_SPREAD + NOISE_LOGIT
    noise[..., 0] = 0
    return output._replace(logits=noise.to(output.logits))


def evaluator(num_images: int, backend: str | None = None) -> Evaluated:
    """COCO's and VOC's figures of simulated detections; of fewer images where only the slow package is there."""
    backend = backend or ("faster" if load_faster() else "pycocotools")
    if backend == "pycocotools":
        num_images = min(num_images, SLOW_IMAGES)
    split, detections = simulate_detections(num_images)
    once: list[float] = []

    def match_coco() -> None:
        once.append(reading(lambda: coco_metrics(split, detections, backend))())  # type: ignore[arg-type]

    _, memory = added_memory(match_coco)
    voc_seconds = reading(lambda: voc_metrics(split, detections))()
    package = {"faster": "faster-coco-eval", "pycocotools": "pycocotools"}[backend]
    return Evaluated(num_images, package, once[0], memory, voc_seconds)


def simulate_detections(num_images: int, seed: int = 0) -> tuple[DataSplit, list[Detections]]:
    """Images of 7 objects on average, and 100 detections each, of which most objects have one near them."""
    rng = np.random.default_rng(seed)
    records, found = [], []
    for number in range(num_images):
        boxes = _boxes(rng, int(rng.poisson(MEAN_OBJECTS)))
        count = len(boxes)
        labels = rng.integers(1, EVALUATED_CLASSES + 1, count)
        no = np.zeros(count, bool)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        records.append(Record(Path("none"), number, IMAGE_SIZE, boxes, labels, no, no, areas))
        others = _boxes(rng, EVALUATED_DETECTIONS)
        other_labels = rng.integers(1, EVALUATED_CLASSES + 1, EVALUATED_DETECTIONS)
        near = min(count, EVALUATED_DETECTIONS)
        others[:near] = boxes[:near] + rng.normal(0, 6, (near, 4))
        others[:, 2:] = np.maximum(others[:, 2:], others[:, :2] + 1)
        other_labels[:near] = labels[:near]
        scores = np.sort(rng.random(EVALUATED_DETECTIONS, np.float32))[::-1].copy()
        mixed = rng.permutation(EVALUATED_DETECTIONS)  # or objects would have the best scores
        found.append(Detections(others[mixed], scores, other_labels[mixed]))
    names = tuple(f"class {label}" for label in range(1, EVALUATED_CLASSES + 1))
    return DataSplit(records, names, tuple(range(1, EVALUATED_CLASSES + 1))), found


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) float32 xyxy in an image of 480x640, sides of 8 to 200 pixels."""
    sides = np.exp(rng.uniform(math.log(8), math.log(200), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array(IMAGE_SIZE[::-1]) - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
