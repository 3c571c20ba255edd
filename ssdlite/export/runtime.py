"""A detector in one file, to be copied into a product: NumPy, onnxruntime, and a file of `ssdlite export-onnx`.

    detector = OnnxDetector("best.onnx")
    boxes, scores, labels = detector(image)  # (H, W, 3) uint8 RGB of any size
    names = [detector.class_names[label] for label in labels]

It runs files of every head, input form and precision, and imports nothing else of ssdlite, which uses the same
functions. It believes what a file says of itself; `ssdlite predict` checks that first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

EXACT_INT8 = "session.x64quantprecision"
"""Processors with AVX2 but without VNNI add two products of 8 bits in 16 bits, which can overflow: a pedestrian
network of 8 bit weights had an AP of .113 that way, and .188 without. With this option onnxruntime computes there
as it does elsewhere, in 1.4 times the time. Files of 7 bit weights never overflow, and are as fast with it."""


FRAME = 1  # sides of the input that a box reaches beyond it at most, before suppression; see `box_arrays.FRAME`


class OnnxDetector:
    """An image -> its objects, best first: boxes (D, 4) xyxy in its pixels, scores (D,), and labels (D,) from 0.

    `threads` are those of one operator; 0 leaves it to onnxruntime (one a physical core).
    """

    def __init__(self, path: Path | str, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry(EXACT_INT8, "1" if may_overflow() else "0")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        properties = self.session.get_modelmeta().custom_metadata_map
        document = json.loads(properties["ssdlite"])
        self.class_names: list[str] = json.loads(properties["names"])
        self.head, self.input, self.output = document["head"], document["input"], document["output"]
        self.size: tuple[int, int] = tuple(self.input["size"])  # (height, width), pixels
        self.priors = np.array(json.loads(properties.get("ssdlite.priors", "[]")), np.float32)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pixels = resize(image, self.size, self.input["resize_alignment"]).astype(self.input["dtype"])
        pixels = pixels if self.input["layout"] == "NHWC" else pixels.transpose(2, 0, 1)
        count = self.session.get_inputs()[0].shape[0]  # text if it is any number
        batch = np.repeat(pixels[None], count if isinstance(count, int) else 1, axis=0)
        boxes, scores, labels = self._select([output[0] for output in self.session.run(None, {"images": batch})])
        height, width = np.divide(image.shape[:2], self.size)
        return boxes * np.array([width, height, width, height], np.float32), scores, labels

    def _select(self, outputs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The file's outputs for one image -> its objects, boxes in pixels of the input."""
        if self.head == "nms":
            boxes, scores, labels, count = outputs
            return boxes[:count], scores[:count], labels[:count]
        if self.head == "raw-levels":
            half, columns = len(outputs) // 2, len(self.class_names) + 1
            outputs = join_levels(outputs[:half], columns), join_levels(outputs[half:], 4)
        boxes, scores = outputs
        if self.head != "decoded":
            logits, deltas = outputs
            scores = class_scores(logits, self.output["score_activation"])
            boxes = decode_boxes(deltas, self.priors, self.output["variances"], self.size)
        limits = ("score_threshold", "iou_threshold", "candidates_per_class", "max_detections")
        return select_detections(boxes, scores, self.size, **{name: self.output[name] for name in limits})


def may_overflow() -> bool:
    """Return whether this processor needs `EXACT_INT8`, which doubles the time of 8 bit weights where it is of no
    use."""
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux; be careful
        return True


def resize(image: np.ndarray, size: tuple[int, int], alignment: str = "half_pixel") -> np.ndarray:
    """(H, W, 3) -> (*size, 3) uint8, within one grey level of what the network was trained on (`data.resize`).

    Two products of matrices: 10 ms for 640x480 and 50 for 1920x1080, on one core. It leaves an image alone that
    has its size already: for "half_pixel" from cv2.resize, say, with INTER_AREA if both sides shrink to less than
    half, else with INTER_LINEAR.
    """
    if image.shape[:2] == tuple(size):
        return image
    averages = alignment == "half_pixel" and image.shape[0] > 2 * size[0] and image.shape[1] > 2 * size[1]
    rows, columns = (
        _weights(length, target, alignment, averages) for length, target in zip(image.shape[:2], size, strict=True)
    )
    shrunk = np.tensordot(np.tensordot(rows, image.astype(np.float32), 1), columns, (1, 1)).transpose(0, 2, 1)
    return np.rint(shrunk).astype(np.uint8)


def _weights(length: int, target: int, alignment: str, averages: bool) -> np.ndarray:
    """(target, length) float32: how much of each old pixel is in each new one."""
    scale, old = length / target, np.arange(length)
    start = np.arange(target)[:, None] * scale
    if averages:  # what the two have in common
        weights = (np.minimum(start + scale, old + 1) - np.maximum(start, old)).clip(0) / scale
    else:  # the two old pixels on either side, by their nearness
        position = start + (scale - 1) / 2 if alignment == "half_pixel" else start
        weights = (1 - np.abs(position.clip(0, length - 1) - old)).clip(0)
    return weights.astype(np.float32)


def join_levels(maps: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """(..., priors of a cell · columns, h, w) of each level -> (..., P, columns), in the order of the priors."""
    rows = [np.moveaxis(level, -3, -1) for level in maps]
    return np.concatenate(
        [level.reshape(*level.shape[:-3], math.prod(level.shape[-3:]) // columns, columns) for level in rows],
        axis=-2,
    )


def class_scores(logits: np.ndarray, activation: str) -> np.ndarray:
    """(..., C) logits, background first -> (..., K) scores of the classes, by "softmax" or "sigmoid"."""
    if activation == "sigmoid":
        with np.errstate(over="ignore"):  # a score of 0
            return (1 / (1 + np.exp(-logits)))[..., 1:]
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (exponentials / exponentials.sum(axis=-1, keepdims=True))[..., 1:]


def decode_boxes(
    deltas: np.ndarray, priors: np.ndarray, variances: Sequence[float], size: tuple[int, int]
) -> np.ndarray:
    """(..., P, 4) deltas and (P, 4) cxcywh -> (..., P, 4) xyxy, pixels of the input; see `model.decode`."""
    center_variance, size_variance = map(np.float32, variances)
    centers = priors[..., :2] + deltas[..., :2] * center_variance * priors[..., 2:]
    with np.errstate(over="ignore"):  # an infinite side ends at the frame
        sizes = priors[..., 2:] * np.exp(deltas[..., 2:] * size_variance)
    ends = _ends(size)
    return np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=-1).clip(
        -FRAME * ends, ends + FRAME * ends
    )


def select_detections(
    boxes: np.ndarray, scores: np.ndarray, size: tuple[int, int], *,
    score_threshold: float, iou_threshold: float, candidates_per_class: int, max_detections: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """(P, 4) and (P, K) of one image -> boxes clipped to `size`, scores and labels from 0, best first."""
    clipped = boxes.clip(0, _ends(size))
    is_seen = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    found = []
    for label, column in enumerate(scores.T):
        candidates = np.flatnonzero(is_seen & (column > score_threshold))
        candidates = candidates[np.argsort(-column[candidates], kind="stable")[:candidates_per_class]]
        kept = candidates[suppress(boxes[candidates], iou_threshold)]
        found.append((clipped[kept], column[kept], np.full(len(kept), label, np.int64)))
    all_boxes, all_scores, all_labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    best = np.argsort(-all_scores, kind="stable")[:max_detections]
    return all_boxes[best], all_scores[best], all_labels[best]


def suppress(boxes: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy suppression of (N, 4) xyxy boxes, best first -> positions of those kept, best first.

    A box goes when its IoU with one that was kept before it is above `iou_threshold`.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = []
    left = np.arange(len(boxes))
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2])
        common = sides.clip(min=0).prod(axis=1)
        # Without a division, boxes of no area overlap nothing.
        left = left[common <= iou_threshold * (areas[best] + areas[left] - common)]
    return np.array(kept, np.int64)


def _ends(size: tuple[int, int]) -> np.ndarray:
    """The limits of x1, y1, x2, y2."""
    height, width = size
    return np.array([width, height, width, height], np.float32)
